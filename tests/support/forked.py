"""The program of `support.forks.python`: forked.py SERVER PYTHON WORD …, without anything that takes long to import."""

import marshal
import os
import signal
import socket
import sys

place, python, *words = sys.argv[1:]
if len(words) < 2 or words[0] != "-m" or words[1].split(".")[0] != "peftbench":
    os.execv(python, [python, *words])

server = socket.socket(socket.AF_UNIX)
server.connect(place)
pairs = [key + b"=" + value for key, value in os.environb.items()]
program = os.path.join(os.path.dirname(place), "python")
content = marshal.dumps((os.getcwd(), program, words[1], [os.fsencode(word) for word in words[2:]], pairs))
HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
socket.send_fds(server, [b"%20d" % len(content)], [0, 1, 2])
server.sendall(content)
told = server.makefile("rb")
child = int(told.readline())
for number in (0, 1, 2):
    os.close(number)  # a reader that goes away is seen by the one who writes
for one in HANDED_ON:
    signal.signal(one, lambda number, _: os.kill(child, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
status = int(told.readline() or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
