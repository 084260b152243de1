"""Calls one C function from two places, known numbers of times, beside another one."""
import zlib

from contact import done, ready, tell

CALLS = {"here": 700, "there": 300}


def here(data):
    return zlib.crc32(data)


def there(data):
    zlib.adler32(data)
    return zlib.crc32(data)


def main():
    for name, count in CALLS.items():
        tell("count", name, count)
    ready()
    for function in (here, there):
        for _ in range(CALLS[function.__name__]):
            function(b"x" * 4096)
    done()


main()
