"""`python -m posttrain.service.cli`: the same as `posttrain`."""

from posttrain.service.cli import main

if __name__ == "__main__":
    main()
