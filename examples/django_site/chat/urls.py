from django.contrib.auth.views import LoginView
from django.urls import path

from . import views

urlpatterns = [
    path("", views.page, name="page"),
    path("login", LoginView.as_view(template_name="login.html"), name="login"),
    path("messages", views.send, name="send"),
    path("callback", views.callback),
]
