"""The same worker as a Celery task: BROKER_URL=redis://localhost celery --app tasks worker"""
import os

import worker
from celery import Celery

app = Celery(broker=os.environ["BROKER_URL"])
answer = app.task(worker.answer, name="answer", ignore_result=True)
