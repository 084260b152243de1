"""Two functions that burn CPU time 70 : 30, by the thread's own clock; tells what each has really used."""
import threading

from contact import cpu_seconds, done, ready, tell

used = {"heavy": 0.0, "light": 0.0}


def heavy(until):
    while cpu_seconds() < until:
        pass


def light(until):
    while cpu_seconds() < until:
        pass


def burn(stop):
    while not stop.is_set():
        for function, share in ((heavy, 0.07), (light, 0.03)):
            start = cpu_seconds()
            function(start + share)
            used[function.__name__] += cpu_seconds() - start


def main():
    stop = threading.Event()
    worker = threading.Thread(target=burn, args=(stop,))
    worker.start()
    ready()
    stop.set()
    worker.join()
    for name, seconds in used.items():
        tell("used", name, seconds)
    done()


main()
