import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

USER = {"on_delete": django.db.models.deletion.CASCADE, "to": settings.AUTH_USER_MODEL}


class Migration(migrations.Migration):
    initial = True
    dependencies = [migrations.swappable_dependency(settings.AUTH_USER_MODEL)]
    operations = [
        migrations.CreateModel(
            name="Message",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField()),
                ("recipient", models.ForeignKey(related_name="received", **USER)),
                ("sender", models.ForeignKey(related_name="sent", **USER)),
            ],
        ),
    ]
