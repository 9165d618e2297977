"""The registry: versions as a tree from their base, aliases as chips, and all about the one under the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import on
from textual.containers import Horizontal, VerticalScroll
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static, Tree
from textual.widgets.tree import TreeNode

from posttrain.service.client import ClientError
from posttrain.tui import actions
from posttrain.tui.describe import client_error, gate_summary, version_card
from posttrain.tui.marks import Palette, verdict_from_word, verdict_mark
from posttrain.tui.messages import Answered, CatalogueChanged, JobsChanged
from posttrain.tui.screens.base import BaseScreen
from posttrain.tui.screens.move_alias import RollbackDialog
from posttrain.tui.text import age, one_line, styled

DETAILS_PAUSE_S = 0.15


def version_label(version: Any, palette: Palette, now: float) -> Text:
    """`bot@3  instruct adapter  ✓ PASS  [production]  2h`."""
    text = styled(one_line(version.ref, 60), f"bold {palette.foreground}")
    text.append(f"  {one_line(version.relation or version.role, 20)}", palette.muted)
    if version.gate_verdict:
        text.append("  ").append_text(palette.mark(verdict_mark(verdict_from_word(version.gate_verdict))))
    if version.aliases:
        text.append("  ").append_text(palette.chips(list(version.aliases)))
    return text.append(f"  {age(version.create_time, now)}", palette.muted)


class LineageTree(Tree[str], inherit_bindings=False):
    """Keys are bound by the screen."""


class RegistryScreen(BaseScreen):
    SCOPE = "registry"
    MODE = "registry"
    AUTO_FOCUS = "LineageTree"
    BINDINGS = actions.bindings("registry", "move")

    def __init__(self) -> None:
        super().__init__()
        self._moves: dict[str, list[Any]] = {}
        self._timer: Timer | None = None

    def compose_body(self) -> Iterable[Widget]:
        yield Static("", id="list-title")
        with Horizontal(id="registry"):
            tree = LineageTree(Text("models"), id="tree")
            tree.show_root = False
            tree.guide_depth = 3
            tree.auto_expand = False
            yield tree
            with VerticalScroll(id="details-box", can_focus=False):
                yield Static("", id="details")

    @property
    def tree_view(self) -> LineageTree:
        return self.query_one(LineageTree)

    @property
    def ref(self) -> str:
        node = self.tree_view.cursor_node
        return node.data or "" if node is not None else ""

    def mover(self) -> Widget | None:
        return self.tree_view

    def on_mount(self) -> None:
        self.rebuild()

    def repaint(self) -> None:
        super().repaint()
        self.rebuild()

    @on(CatalogueChanged)
    def rebuild(self) -> None:
        """Draws the tree again; cursor, folded branches and scroll stay with their versions."""
        tree, chosen = self.tree_view, self.ref
        folded = {node.data for node in self.version_nodes() if not node.is_expanded}
        top = tree.scroll_y
        tree.clear()
        tree.move_cursor(None)  # else the tree keeps the old node when the new one stands on the same line
        nodes: dict[str, TreeNode[str]] = {}
        versions = self.feed.versions
        waiting = list(versions.values())
        while waiting:
            rest = []
            for version in waiting:
                if version.parent in versions and version.parent not in nodes and version.parent != version.ref:
                    rest.append(version)
                    continue
                parent = nodes.get(version.parent, tree.root)
                label = version_label(version, self.palette, self.now)
                nodes[version.ref] = parent.add(label, data=version.ref, expand=version.ref not in folded)
            if len(rest) == len(waiting):  # a cycle, which a sound server never sends: show it flat
                for version in rest:
                    nodes[version.ref] = tree.root.add_leaf(
                        version_label(version, self.palette, self.now), data=version.ref
                    )
                break
            waiting = rest
        for node in nodes.values():
            node.allow_expand = bool(node.children)
        tree.root.expand()
        if nodes and tree.last_line >= 0:  # asking for the last line builds the lines that move_cursor looks up
            tree.move_cursor(nodes.get(chosen) or next(iter(nodes.values())))
            tree.scroll_to(y=top, animate=False)
        names = {ref.rpartition("@")[0] for ref in versions}
        title = styled("Registry", "bold").append(f"  {len(versions):,} versions of {len(names):,} models")
        self.query_one("#list-title", Static).update(title)
        self._moves.clear()
        self.show_details()

    def version_nodes(self) -> list[TreeNode[str]]:
        found, waiting = [], list(self.tree_view.root.children)
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting += node.children
        return found

    @on(JobsChanged)
    def jobs_changed(self) -> None:
        self.show_status()

    def select(self, ref: str) -> None:
        """Puts the cursor on a version, and unfolds what hides it."""
        node = next((node for node in self.version_nodes() if node.data == ref), None)
        above = node.parent if node is not None else None
        while above is not None:
            above.expand()
            above = above.parent
        if node is not None:
            self.call_after_refresh(self.tree_view.move_cursor, node)

    # -- the version under the cursor ---------------------------------------------------------------------------------

    @on(Tree.NodeHighlighted)
    def show_soon(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(DETAILS_PAUSE_S, self.show_details)

    def show_details(self) -> None:
        version, details = self.feed.versions.get(self.ref), self.query_one("#details", Static)
        self.refresh_bindings()
        if version is None:
            empty = "No models yet.  posttrain models import NAME FOLDER" if self.feed.has_catalogue else "loading..."
            details.update(Text(empty, self.palette.muted))
            return
        model = self.ref.rpartition("@")[0]
        card = version_card(version, self._moves.get(model, []), self.palette)
        run = self.feed.newest_gate_run(self.ref)
        if run is not None:
            card.append("\n\nNewest gate\n", f"bold {self.palette.foreground}").append_text(
                gate_summary(run, self.palette)
            )
        details.update(card)
        if model not in self._moves and self.is_current:
            self.run_worker(self._read_moves(model), group="moves", exclusive=True)

    async def _read_moves(self, model: str) -> None:
        client = self.feed.client
        prefix = client.names.model(model) + "/aliases/"
        try:
            moves = [
                move
                for record in self.feed.aliases
                if record.name.startswith(prefix)
                for move in await client.list_alias_history(model, record.alias)
            ]
        except ClientError as error:
            self.post_message(Answered(error=error))
            return
        moves.sort(key=lambda move: (move.time.seconds, move.time.nanos), reverse=True)
        self.post_message(Answered(result=(model, moves)))

    @on(Answered)
    def moves_arrived(self, message: Answered) -> None:
        if message.error is not None:
            self.warn(client_error(message.error, self.palette).plain)
        else:
            model, moves = message.result
            self._moves[model] = moves
            self.show_details()

    # -- keys ---------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.feed.read_only and action in actions.WRITES:
            return False
        version = self.feed.versions.get(self.ref) if self.is_attached and self.query(LineageTree) else None
        if action == "rollback" and (version is None or not version.aliases):
            return None
        if action == "open_row" and (version is None or self.feed.newest_gate_run(version.ref) is None):
            return None
        if action in {"promote", "copy_name"} and version is None:
            return None
        return super().check_action(action, parameters)

    @on(Tree.NodeSelected)
    def action_open_row(self) -> None:
        run = self.feed.newest_gate_run(self.ref)
        if run is not None:
            self.ui.open_gate(run.name)

    def action_toggle_node(self) -> None:
        if self.tree_view.cursor_node is not None:
            self.tree_view.cursor_node.toggle()

    def action_promote(self) -> None:
        self.ui.open_promote(self.ref)

    def action_rollback(self) -> None:
        self.app.push_screen(RollbackDialog(self.ref))

    def action_copy_name(self) -> None:
        self.copy(self.ref)
