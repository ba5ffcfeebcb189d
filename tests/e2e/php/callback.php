<?php
// The callbacks of the gateway, and a send over its socket, with nothing but what PHP brings along.

function send(array $send): string
{
    $body = json_encode($send);
    $gateway = stream_socket_client("unix://" . getenv("INTERNAL_SOCKET"), $code, $reason, 5);
    fwrite($gateway, "POST /internal/send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        . "Content-Length: " . strlen($body) . "\r\nConnection: close\r\n\r\n" . $body);
    return explode("\r\n\r\n", stream_get_contents($gateway), 2)[1];
}

$call = json_decode(file_get_contents("php://input"), true);
header("Content-Type: application/json");
if ($call["action"] === "disconnect") {
    if ($call["reason"] === "client_closed") { // otherwise the gateway itself may be about to end
        send(["group" => "room", "event" => ["data" => "left: " . $call["request"]["url"]]]);
    }
    echo "{}";
} elseif (!isset($call["request"]["headers"]["cookie"])) {
    http_response_code(401);
} else {
    send(["group" => "room", "event" => ["data" => "came: " . $call["request"]["url"]]]);
    echo json_encode(["groups" => ["room"], "event" => ["name" => "hello", "data" => "from PHP " . PHP_MAJOR_VERSION]]);
}
