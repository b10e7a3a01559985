package names

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func TestIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := wild(t)
		r, w := over(t, "tcp", z)
		r.Prefer = IPv4Only
		want(t, r, nth(1), "192.0.2.80")
		time.Sleep(idleTime - 1)
		want(t, r, nth(2), "192.0.2.80")
		if n := w.count("tcp 192.0.2.1:53"); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
		time.Sleep(idleTime)
		synctest.Wait()
		want(t, r, nth(3), "192.0.2.80")
		if n := w.count("tcp 192.0.2.1:53"); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

// Slow questions do not hold up others on their connection, and an answer that
// comes too late disturbs nobody.
func TestAnswersInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := wild(t)
		quick := z.instead
		z.instead = func(query *dns.Msg) *dns.Msg {
			if query.Question[0].Name == "n1.example." {
				time.Sleep(3 * time.Second)
			}
			return quick(query)
		}
		r, w := over(t, "tcp", z)
		r.Prefer = IPv4Only
		slow := make(chan error)
		go func() {
			_, err := r.LookupNetIP(t.Context(), "ip", nth(1))
			slow <- err
		}()
		synctest.Wait()
		began := time.Now()
		want(t, r, nth(2), "192.0.2.80")
		if time.Since(began) != 0 {
			t.Error("the slow question held up another")
		}
		if err := <-slow; err == nil {
			t.Error("the slow question has an answer")
		}
		time.Sleep(2 * time.Second)
		want(t, r, nth(3), "192.0.2.80")
		if n := w.count("tcp 192.0.2.1:53"); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

// A server that accepts and never answers costs one try, not two.
func TestMuteServerOverTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t)
		z.instead = silent
		r, _ := over(t, "tcp", z)
		began := time.Now()
		if err := wantError(t, r, "www.example"); !err.IsTimeout {
			t.Errorf("got %#v", err)
		}
		if took := time.Since(began); took != tryTimeout {
			t.Errorf("took %v, want %v", took, tryTimeout)
		}
	})
}

func TestCloseDuringQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		z.instead = z.after(time.Second)
		r, w := over(t, "tcp", z)
		ended := begin(t.Context(), r)
		synctest.Wait()
		r.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := w.count("tcp 192.0.2.1:53"); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
		time.Sleep(time.Second)
	})
}
