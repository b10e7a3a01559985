package users

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// newStore returns a store of a file with the given lines, and its path.
func newStore(t testing.TB, lines ...string) (*Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, lines...)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

func write(t testing.TB, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	s, _ := newStore(t, "ann:"+cheap("correct horse"), "bob:"+hashes[0].hash, "# eve:"+cheap("x"))
	long := strings.Repeat("q", 256)
	for _, test := range []struct {
		user, password string
		want           error
	}{
		{"ann", "correct horse", nil},
		{"bob", "correct horse", nil},
		{"ann", "correct horsf", ErrDenied},
		{"ann", "", ErrDenied},
		{"ann", long, ErrDenied},
		{"Ann", "correct horse", ErrDenied},
		{"eve", "x", ErrDenied},
		{"# eve", "x", ErrDenied},
		{"", "correct horse", ErrDenied},
		{long, "correct horse", ErrDenied},
	} {
		if err := s.Verify(t.Context(), test.user, test.password); !errors.Is(err, test.want) {
			t.Errorf("Verify(%.9q, %.20q): %v, want %v", test.user, test.password, err, test.want)
		}
	}
}

// A decoy's hash is somebody's: with that user's password too, a stranger
// stays one.
func TestStrangersAreDenied(t *testing.T) {
	s, _ := newStore(t, "ann:"+cheap("correct horse"))
	for i := range 20 {
		if err := s.Verify(t.Context(), fmt.Sprint("stranger", i), "correct horse"); !errors.Is(err, ErrDenied) {
			t.Errorf("Verify: %v", err)
		}
	}
	s, _ = newStore(t)
	if err := s.Verify(t.Context(), "ann", "correct horse"); !errors.Is(err, ErrDenied) {
		t.Errorf("Verify without users: %v", err)
	}
}

// A stranger costs one hash, always the same, and all kinds occur.
func TestStrangersCostTheSame(t *testing.T) {
	s, _ := newStore(t, "ann:"+cheap("a"), "bob:"+hashes[0].hash, "eve:"+hashes[9].hash)
	var computed []passwordHash
	s.hashed = func(h passwordHash) { computed = append(computed, h) }
	kinds := make(map[string]int)
	for i := range 60 {
		computed = nil
		name := fmt.Sprint("stranger", i)
		for range 2 {
			_ = s.Verify(t.Context(), name, "x")
		}
		if len(computed) != 2 || fmt.Sprint(computed[0]) != fmt.Sprint(computed[1]) {
			t.Fatalf("two logins of %s computed %v", name, computed)
		}
		kinds[fmt.Sprintf("%T", computed[0])]++
	}
	if len(kinds) != 3 {
		t.Errorf("strangers cost %v, want some of each of three kinds", kinds)
	}

	computed = nil
	_ = s.Verify(t.Context(), "ann", "wrong")
	_ = s.Verify(t.Context(), "ann", "a")
	if len(computed) != 2 {
		t.Errorf("a wrong and a right password computed %d hashes, want 2", len(computed))
	}
}

func TestStrangerOfNobodyCostsTheDefault(t *testing.T) {
	s, _ := newStore(t)
	var computed passwordHash
	s.hashed = func(h passwordHash) { computed = h }
	_ = s.Verify(t.Context(), "ann", "x")
	h, ok := computed.(argon2id)
	if !ok || h.memory != argon2Memory || h.passes != argon2Passes || h.threads != argon2Threads {
		t.Errorf("computed %v", computed)
	}
}

func TestVerifyWaitsForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newStore(t, "ann:"+cheap("a"))
		for range cap(s.slots) {
			s.slots <- struct{}{}
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- s.Verify(ctx, "ann", "a") }()
		go func() { result <- s.Verify(t.Context(), "ann", "a") }()
		synctest.Wait()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while waiting: %v", err)
		}
		<-s.slots
		if err := <-result; err != nil {
			t.Errorf("with a slot: %v", err)
		}
		if err := s.Verify(ctx, "ann", "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
	})
}

func TestVerifyBoundsHashing(t *testing.T) {
	s, _ := newStore(t, "ann:"+cheap("a"))
	var most int
	var mu sync.Mutex
	s.hashed = func(passwordHash) {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, len(s.slots))
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { _ = s.Verify(t.Context(), "ann", "b") })
	}
	wg.Wait()
	if most == 0 || most > maxHashing || len(s.slots) != 0 {
		t.Errorf("at most %d at a time, %d left", most, len(s.slots))
	}
}

func TestReload(t *testing.T) {
	s, path := newStore(t, "ann:"+cheap("a"))
	write(t, path, "bob:"+cheap("b"))
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), "bob", "b"); err != nil {
		t.Errorf("new user: %v", err)
	}
	if err := s.Verify(t.Context(), "ann", "a"); !errors.Is(err, ErrDenied) {
		t.Errorf("removed user: %v", err)
	}

	write(t, path, "bob:"+cheap("c"), "ann:secret")
	want := path + ":2:5: " + errClearText.Error()
	if err := s.Reload(); err == nil || err.Error() != want {
		t.Errorf("Reload: %v, want %s", err, want)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Reload: %v", err)
	}
	if err := s.Verify(t.Context(), "bob", "b"); err != nil {
		t.Errorf("after bad reloads: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if _, err := Open(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a folder was opened")
	}
}

func TestReloadWhileVerifying(t *testing.T) {
	s, path := newStore(t, "ann:"+cheap("a"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if err := s.Verify(t.Context(), "ann", "a"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 50 {
		next := path + fmt.Sprint(i)
		write(t, next, "ann:"+cheap("a"), fmt.Sprintf("user%d:%s", i, cheap("b")))
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		if err := s.Reload(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}
