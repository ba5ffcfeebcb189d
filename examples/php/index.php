<?php
// A room in PHP, complete: who may come in, messages to all, who has left. With php-fpm and nginx.conf beside it:
//
//     CALLBACK_URL=http://127.0.0.1:8000/callback ssegateway
//
// Then open http://localhost:8000/?user=ann, and another one for Bob. php-fpm's pool passes on GATEWAY_URL,
// INTERNAL_TOKEN and CALLBACK_TOKEN where they are set (env[INTERNAL_TOKEN] = ...).

/** Sends to every stream in a group. Any request may do so, and so may a script of cron. */
function send(string $group, array $event): void
{
    $token = getenv("INTERNAL_TOKEN");
    $http = [
        "method" => "POST",
        "header" => ["Content-Type: application/json", ...($token ? ["Authorization: Bearer $token"] : [])],
        "content" => json_encode(["group" => $group, "event" => $event], JSON_THROW_ON_ERROR),
        "timeout" => 5,
    ];
    $url = (getenv("GATEWAY_URL") ?: "http://127.0.0.1:3000") . "/internal/send";
    if (file_get_contents($url, false, stream_context_create(["http" => $http])) === false) {
        throw new RuntimeException("the gateway did not take an event");
    }
}

/** Who it is, by the cookie: of the page's request, or of the stream's, which the gateway passes on. */
function user(string $cookies): ?string
{
    return preg_match('/(?:^|; )user=(\w+)/', $cookies, $match) ? $match[1] : null;
}

function callback(array $call): void
{
    $user = user($call["request"]["headers"]["cookie"] ?? "");
    if ($call["action"] === "connect" && $user === null) {
        http_response_code(401); // the client gets this status, and no stream
    } elseif ($call["action"] === "connect") {
        echo json_encode(["groups" => ["room"], "event" => ["data" => "Welcome, $user"]]);
    } elseif (($call["reason"] ?? "") === "client_closed") {
        send("room", ["data" => "$user has left"]);
    }
}

$token = getenv("CALLBACK_TOKEN");
switch ($_SERVER["REQUEST_METHOD"] . " " . strtok($_SERVER["REQUEST_URI"], "?")) {
    case "POST /callback":
        $isGateway = !$token || hash_equals("Bearer $token", $_SERVER["HTTP_AUTHORIZATION"] ?? "");
        $isGateway ? callback(json_decode(file_get_contents("php://input"), true)) : http_response_code(403);
        break;
    case "POST /messages":
        $user = user($_SERVER["HTTP_COOKIE"] ?? "");
        $user ? send("room", ["data" => "$user: " . $_POST["text"]]) : http_response_code(401);
        break;
    case "GET /":
        $user = preg_match('/^\w+$/', $_GET["user"] ?? "") ? $_GET["user"] : "guest"; // in place of a login
        setcookie("user", $user);
        require "page.php";
        break;
    default:
        http_response_code(404);
}
