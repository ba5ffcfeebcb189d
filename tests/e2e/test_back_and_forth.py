"""Chromium keeps a page that the user has left, with its stream. The README shows how a page ends its stream itself."""


def test_a_page_that_does_has_a_new_one_when_the_user_is_back(ssegateway, start_proxy, open_page):
    page = open_page(f"{start_proxy('nginx').url}/leave.html")
    first = ssegateway.wait_for(lambda call: call.url == "/events/news").token

    page.run("location = '/page.html'")
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"
    page.wait_until("document.title === 'EventSource'")

    page.run("history.back()")
    second = ssegateway.wait_for(lambda call: call.action == "connect" and call.token != first).token
    page.run("events.onmessage = ({ data }) => { document.title = data; }")
    ssegateway.send(second, "welcome back")
    page.wait_until("document.title === 'welcome back'")
