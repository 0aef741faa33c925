"""A trainer process: `python -m objectives FD`, started by a coordinator that holds the other end of the socket."""

from objectives.trainer import main

if __name__ == "__main__":
    main()
