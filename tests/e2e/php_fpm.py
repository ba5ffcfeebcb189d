"""php-fpm with a pool of its own."""

import glob
import os
import pathlib

from programs import wait_until

CONFIGURATION = """
[global]
error_log = /dev/stderr
daemonize = no
[www]
user = {user}
listen = {directory}/php.sock
listen.mode = 0666
pm = static
pm.max_children = 2
catch_workers_output = yes
"""


def start_php(start, directory, **environment):
    """Listens on php.sock in the directory."""
    user = "root" if os.getuid() == 0 else os.environ["USER"]
    variables = "".join(f'env[{name}] = "{value}"\n' for name, value in environment.items())
    configuration = pathlib.Path(directory) / "php.conf"
    configuration.write_text(CONFIGURATION.format(user=user, directory=directory) + variables)
    root = ["--allow-to-run-as-root"] if user == "root" else []
    start(sorted(glob.glob("/usr/sbin/php-fpm*"))[-1], *root, "--fpm-config", str(configuration))
    wait_until(lambda: os.path.exists(f"{directory}/php.sock"), lambda: "no php.sock")
