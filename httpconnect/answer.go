package httpconnect

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/argyle-socks/argyle/internal/serve"
)

// refuse answers with a status and a line that says why, and ends the
// connection.
func refuse(w http.ResponseWriter, r *http.Request, status int, reason string) {
	header := http.Header{"Content-Type": {"text/plain; charset=utf-8"}}
	if status == http.StatusMethodNotAllowed {
		header.Set("Allow", "GET, HEAD") // RFC 9110, section 15.5.6, wants a list
	}
	lastAnswer(w, r, status, header, reasonLine(status, reason))
}

func reasonLine(status int, reason string) string {
	return strconv.Itoa(status) + " " + http.StatusText(status) + ": " + reason + "\n"
}

// lastAnswer answers and ends the connection. Whatever the client has sent
// ahead is thrown away: taken for the next request, the first bytes of a tunnel
// that was refused could say anything in the client's name.
func lastAnswer(w http.ResponseWriter, r *http.Request, status int, header http.Header, body string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		// Not an HTTP/1 connection of net/http: it knows how to end it.
		maps.Copy(w.Header(), header)
		w.Header().Set("Connection", "close")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return
	}
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	answer := http.Response{
		StatusCode: status,
		ProtoMajor: 1, ProtoMinor: 1,
		Header:        header,
		Body:          io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)),
		Close:         true,
		Request:       r, // a HEAD gets no body
	}
	var b bytes.Buffer
	_ = answer.Write(&b) // a buffer takes everything
	_ = conn.SetWriteDeadline(time.Now().Add(lingerTime))
	if _, err := conn.Write(b.Bytes()); err != nil {
		conn.Close()
		return
	}
	serve.Finish(conn)
}
