"""The dialogs that move an alias: promote and roll back. Both want a reason and a typed name, and send what they show.

The server is the judge. The alias's etag as shown goes with the request; if the alias has moved meanwhile, the server
answers ABORTED, the dialog shows the new state and wants the name typed again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import on
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Button, Input, Label, Select, Static

from posttrain.service.client import ClientError, new_request_id
from posttrain.tui.describe import facts, gate_summary, is_blocked
from posttrain.tui.marks import Palette
from posttrain.tui.messages import CatalogueChanged
from posttrain.tui.screens.dialog import Dialog
from posttrain.tui.text import one_line, styled

DEFAULT_ALIAS = "production"
CONFLICT_CODES = frozenset({"ABORTED"})


def move_line(alias: str, before: str, after: str, palette: Palette) -> Text:
    """`[production]  bot@2 → bot@3`."""
    text = palette.chips([alias]).append("  ")
    text.append(one_line(before, 60) or "nothing", palette.muted).append(
        " -> " if palette.is_ascii else " → ", palette.muted
    )
    return text.append(one_line(after, 60), f"bold {palette.foreground}")


class MoveAliasDialog(Dialog):
    """An alias to choose, what would happen, a reason, the typed name."""

    VERB = ""

    def __init__(self, ref: str) -> None:
        super().__init__()
        self.ref = ref
        self.model = ref.rpartition("@")[0]
        self.request_id = new_request_id()

    # -- what a subclass answers --------------------------------------------------------------------------------------

    def choices(self) -> list[str]:
        """Aliases to choose from, the likeliest first."""
        raise NotImplementedError

    def expected(self) -> str:
        """What has to be typed."""
        raise NotImplementedError

    def is_possible(self) -> bool:
        """Whether there is anything to confirm at all; without it there is no button."""
        raise NotImplementedError

    def show_details(self) -> None:
        """What would happen, from the newest data."""
        raise NotImplementedError

    def send(self) -> None:
        raise NotImplementedError

    # -- the form -----------------------------------------------------------------------------------------------------

    def compose_fields(self) -> Iterable[Widget]:
        names = self.choices()
        yield Select(
            [(Text(one_line(name, 60)), name) for name in names],
            value=names[0],
            allow_blank=False,
            id="alias",
            compact=True,
        )
        yield Static("", id="details")
        with Vertical(id="confirm-fields"):
            yield Label(Text("Reason, for the record"))
            yield Input(id="reason", placeholder="why", compact=True)
            yield Label(Text(""), id="typed-label")
            yield Input(id="typed", compact=True)

    def compose_buttons(self) -> Iterable[Widget]:
        yield Button(self.VERB, id="confirm", variant="primary", disabled=True)

    def on_mount(self) -> None:
        self.feed.subscribe(self)
        self.query_one("#alias").display = len(self.choices()) > 1
        self.show_alias()

    def on_unmount(self) -> None:
        self.feed.unsubscribe(self)

    @property
    def alias(self) -> str:
        return str(self.query_one("#alias", Select).value)

    def alias_record(self) -> Any | None:
        wanted = self.feed.client.names.alias(self.model, self.alias)
        return next((record for record in self.feed.aliases if record.name == wanted), None)

    @on(Select.Changed, "#alias")
    def show_alias(self) -> None:
        self.record = self.alias_record()
        self.query_one("#typed-label", Label).update(Text(f"Type {one_line(self.expected(), 80)} to confirm"))
        self.query_one("#typed", Input).value = ""
        self.show_details()
        self.check_form()

    @on(CatalogueChanged)
    def reload(self) -> None:
        """The alias shown is the one whose etag is sent: if it moved, show that, and ask again."""
        before, after = self.record, self.alias_record()
        if (before.etag if before else "") != (after.etag if after else ""):
            self.show_alias()
            self.show_error(
                Text("The alias has moved while this was open. What you see now is new.", self.palette.warning)
            )
        else:
            self.show_details()
            self.check_form()

    @on(Input.Changed)
    def check_form(self) -> None:
        button, can = self.query_one("#confirm", Button), self.is_possible() and not self.feed.read_only
        button.display = can
        self.query_one("#confirm-fields").display = can
        button.disabled = not (can and self.is_filled_in())

    def is_filled_in(self) -> bool:
        typed, reason = self.query_one("#typed", Input).value, self.query_one("#reason", Input).value
        return typed.strip() == self.expected() and bool(reason.strip())

    @on(Input.Submitted)
    def next_field(self) -> None:
        self.focus_next()  # Enter in a field never sends

    @on(Button.Pressed, "#confirm")
    def confirm(self) -> None:
        if self.is_possible() and self.is_filled_in():
            self.send()

    def refused(self, error: ClientError) -> None:
        if error.code != "UNAVAILABLE":  # only an answer that was lost is asked for again
            self.request_id = new_request_id()
        if error.code in CONFLICT_CODES:
            self.query_one("#typed", Input).value = ""
            self.feed.reload()

    @property
    def reason(self) -> str:
        return self.query_one("#reason", Input).value.strip()


class PromoteDialog(MoveAliasDialog):
    VERB = "Promote"

    @property
    def gate_run(self) -> Any | None:
        return self.feed.newest_gate_run(self.ref, self.alias)

    def choices(self) -> list[str]:
        judged = [run.alias for run in self.feed.gate_runs if run.candidate == self.ref and run.alias]
        prefix = self.feed.client.names.model(self.model) + "/aliases/"
        known = [record.alias for record in self.feed.aliases if record.name.startswith(prefix)]
        return list(dict.fromkeys([*judged, *known])) or [DEFAULT_ALIAS]

    def expected(self) -> str:
        return self.ref

    def is_possible(self) -> bool:
        return not is_blocked(self.gate_run) and (self.record is None or self.record.version != self.ref)

    def show_details(self) -> None:
        palette, run = self.palette, self.gate_run
        before = self.record.version if self.record else ""
        blocked = "  blocked by the gate" if is_blocked(run) else ""
        title = styled(f"Promote {one_line(self.ref, 60)}", f"bold {palette.primary}")
        self.set_title(title.append(blocked, f"bold {palette.error}"))
        text = move_line(self.alias, before, self.ref, palette).append("\n\n")
        text.append_text(gate_summary(run, palette))
        for warning in self.warnings(before):
            text.append(f"\n! {warning}", palette.warning)
        self.query_one("#details", Static).update(text)

    def warnings(self, before: str) -> list[str]:
        found = []
        if before == self.ref:
            found.append("the alias names this version already")
        newest = next((ref for ref in reversed(self.feed.versions) if ref.rpartition("@")[0] == self.model), self.ref)
        if newest != self.ref:
            found.append(f"{one_line(newest, 60)} is newer than this version")
        run = self.gate_run
        if (
            run is not None
            and before
            and before != self.ref
            and not any(b.endswith(f" {before}") for b in run.baselines)
        ):
            found.append(f"the gate did not compare it with {one_line(before, 60)}, which the alias names now")
        return found

    def send(self) -> None:
        run, etag = self.gate_run, self.record.etag if self.record else ""
        name, alias, reason, request_id = run.name if run else "", self.alias, self.reason, self.request_id
        self.ask(lambda: self.feed.promote(self.ref, alias, name, reason, etag, request_id))

    def succeeded(self, result: Any) -> None:
        self.app.notify(f"{one_line(result.alias, 40)} now names {one_line(result.version, 60)}", markup=False)
        self.dismiss(None)


class RollbackDialog(MoveAliasDialog):
    VERB = "Roll back"

    def choices(self) -> list[str]:
        return list(self.feed.versions[self.ref].aliases)

    def expected(self) -> str:
        return self.alias

    def is_possible(self) -> bool:
        return self.record is not None and self.record.version == self.ref

    def show_details(self) -> None:
        palette = self.palette
        self.set_title(Text(f"Roll back {one_line(self.model, 40)}", f"bold {palette.warning}"))
        text = move_line(self.alias, self.ref, "the version before", palette)
        text.append("\n\n").append_text(
            facts(
                [
                    ("effect", "whoever serves this alias gets the version that it named before"),
                    ("record", "the move and its reason stay in the history"),
                ],
                palette,
            )
        )
        if not self.is_possible():
            text.append(f"\n! the alias does not name {one_line(self.ref, 60)} any more", palette.warning)
        self.query_one("#details", Static).update(text)

    def send(self) -> None:
        alias, reason, etag = self.alias, self.reason, self.record.etag if self.record else ""
        self.ask(lambda: self.feed.rollback(self.model, alias, reason, etag))

    def succeeded(self, result: Any) -> None:
        self.app.notify(f"{one_line(result.alias, 40)} names {one_line(result.version, 60)} again", markup=False)
        self.dismiss(None)
