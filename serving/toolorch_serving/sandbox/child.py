"""First lines inside the sandbox: sets the limits, drops what was inherited, then becomes the program.

Its source is handed to the interpreter as text, so it imports nothing of this package, and only built-in modules and
`resource`. It runs as the program's `__main__`.

The job lies in a file in memory once a byte arrives on `go`, as `marshal` writes it: `code`, `files` (name to bytes),
`home`, `path` (further folders of modules), `limits` (name of an RLIMIT to its soft and hard value). Arguments: the
descriptors of that file, of `go`, and of `ready`, which takes a byte when all is set.
"""


def _run_job() -> None:
    import builtins
    import marshal
    import os
    import resource
    import sys

    source, go, ready = map(int, sys.argv[1:])
    if not os.read(go, 1):  # nobody will give it a program
        os._exit(0)
    with os.fdopen(source, "rb") as stream:
        job = marshal.load(stream)
    home = job["home"]
    for name, content in {**job["files"], "program.py": job["code"]}.items():
        path = os.path.join(home, name)  # noqa: PTH118 (pathlib takes milliseconds to import)
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as target:  # noqa: PTH123
            target.write(content)
    sys.argv[:] = [os.path.join(home, "program.py")]  # noqa: PTH118
    sys.path[:0] = [home]
    sys.path.extend(job["path"])
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # `site`, which makes them, is left out
    for name, pair in job["limits"].items():
        resource.setrlimit(getattr(resource, name), pair)
    os.write(ready, b"1")
    os.closerange(3, 2**16)
    names = globals()
    del names["_run_job"]
    names["__file__"] = sys.argv[0]
    try:
        exec(compile(job["code"], sys.argv[0], "exec"), names)
    except SystemExit:
        raise
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # without these lines
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


_run_job()
