"""`python -m cli`: the same as `longwatch`, by this very Python."""

from cli.main import main

if __name__ == "__main__":
    main()
