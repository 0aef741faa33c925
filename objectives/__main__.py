"""A worker process: `python -m objectives FD`. The coordinator that starts it holds the other end of the socket."""

from objectives.worker import main

if __name__ == "__main__":
    main()
