"""`python -m search`."""

from search.cli.start import put_current_folder_last

if __name__ == "__main__":
    put_current_folder_last()  # before anything that a file in it could hide
    from search.cli.main import main

    main()
