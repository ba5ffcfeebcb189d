// A room with Go's net/http, complete: who may come in, messages to all, who has left.
//
//	LISTEN=127.0.0.1:8000 GATEWAY_URL=http://127.0.0.1:3000 go run examples/go/main.go
//	CALLBACK_URL=http://127.0.0.1:8000/callback ssegateway
//	curl --cookie user=bob --data text=Hello http://127.0.0.1:8000/messages
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strings"
)

type object = map[string]any

// send reaches every stream in the group. Any process may do so.
func send(group, data string) (status int) {
	body, _ := json.Marshal(object{"group": group, "event": object{"data": data}})
	answer, err := http.Post(os.Getenv("GATEWAY_URL")+"/internal/send", "application/json", bytes.NewReader(body))
	if err != nil {
		log.Print(err)
		return http.StatusBadGateway
	}
	answer.Body.Close()
	return answer.StatusCode
}

// userOf says who it is, by the cookie: of a request here, or of a stream's, which the gateway passes on.
func userOf(cookies string) string {
	_, user, _ := strings.Cut(cookies, "user=")
	user, _, _ = strings.Cut(user, ";")
	return user
}

func callback(w http.ResponseWriter, r *http.Request) {
	var call struct {
		Action, Reason string
		Request        struct{ Headers map[string]string }
	}
	json.NewDecoder(r.Body).Decode(&call) // what is no callback has no action
	user := userOf(call.Request.Headers["cookie"])
	if call.Action == "connect" && user == "" {
		w.WriteHeader(http.StatusUnauthorized) // the client gets this status, and no stream
	} else if call.Action == "connect" {
		json.NewEncoder(w).Encode(object{"groups": []string{"room"}, "event": object{"data": "Welcome, " + user}})
	} else if call.Reason == "client_closed" {
		send("room", user+" has left")
	}
}

func main() {
	http.HandleFunc("/callback", callback)
	http.HandleFunc("/messages", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(send("room", userOf(r.Header.Get("Cookie"))+": "+r.PostFormValue("text")))
	})
	log.Fatal(http.ListenAndServe(os.Getenv("LISTEN"), nil))
}
