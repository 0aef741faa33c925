"""A worker process: `python -m objectives.worker FD`. Its coordinator holds the other end of the socket."""

from objectives.worker.worker import main

if __name__ == "__main__":
    main()
