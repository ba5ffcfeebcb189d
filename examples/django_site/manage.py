"""SECRET_KEY=... python manage.py migrate; python manage.py createsuperuser; gunicorn --workers 2 --threads 4 chat.wsgi"""
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
execute_from_command_line(sys.argv)
