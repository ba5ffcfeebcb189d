<?php
// A room in PHP, complete: who may come in, messages to all, who has left. Open http://127.0.0.1:8000/?user=ann, and
// Bob's page in another browser. php-fpm behind nginx.conf needs neither EVENTS_URL nor CORS_ORIGINS; its pool passes
// variables on by env[INTERNAL_TOKEN] = ...
//
//     EVENTS_URL=http://127.0.0.1:3000/events/room php -S 127.0.0.1:8000 index.php
//     CALLBACK_URL=http://127.0.0.1:8000/callback CORS_ORIGINS=http://127.0.0.1:8000 ssegateway

/** Sends to every stream in a group. Any request may do so, and so may a script of cron. */
function send(string $group, array $event): void
{
    $token = getenv("INTERNAL_TOKEN");
    $headers = ["Content-Type: application/json", ...($token ? ["Authorization: Bearer $token"] : [])];
    $content = json_encode(["group" => $group, "event" => $event], JSON_THROW_ON_ERROR);
    $http = ["method" => "POST", "header" => $headers, "content" => $content, "timeout" => 5];
    $url = (getenv("GATEWAY_URL") ?: "http://127.0.0.1:3000") . "/internal/send";
    if (file_get_contents($url, false, stream_context_create(["http" => $http])) === false) {
        throw new RuntimeException("the gateway did not take an event");
    }
}

/** The user of a session, by the cookies of a request here or of a stream's, which the gateway passes on. */
function user(string $cookies): ?string
{
    if (!preg_match('/(?:^|; )PHPSESSID=([\w,-]+)/', $cookies, $match)) return null;
    session_id($match[1]);
    session_start(["read_and_close" => true, "use_strict_mode" => true, "use_cookies" => false]);
    return $_SESSION["user"] ?? null;
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
        session_start();
        $_SESSION["user"] = $user = $_GET["user"] ?? "guest"; // in place of a login
        require "page.php";
        break;
    default:
        http_response_code(404);
}
