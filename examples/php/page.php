<!doctype html><title>Room</title>
<form><input name="text" autofocus> <button>Send as <?= htmlspecialchars($user) ?></button></form><ul></ul>
<script>
const events = new EventSource("<?= getenv("EVENTS_URL") ?: "/events/room" ?>", { withCredentials: true });
events.onmessage = event => document.querySelector("ul").appendChild(document.createElement("li")).append(event.data);
document.forms[0].onsubmit = event => {
  event.preventDefault();
  fetch("/messages", { method: "POST", body: new URLSearchParams(new FormData(event.target)) });
};
</script>
