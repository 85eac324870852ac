"""`python -m cli`: the same as `longwatch`, with the current Python."""

from cli.main import main

if __name__ == "__main__":
    main()
