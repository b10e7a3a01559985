package config

import (
	"encoding"
	"fmt"
	"testing"
	"time"
)

// scalarTest is a text, what it means, and how that is written.
type scalarTest[T any] struct {
	text  string
	want  T
	shown string
}

func (tt scalarTest[T]) run(t *testing.T) {
	t.Helper()
	got, err := read[T](tt.text)
	if err != nil || fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", tt.want) {
		t.Errorf("%T %q = %#v, %v; want %#v", got, tt.text, got, err, tt.want)
	}
	if s := fmt.Sprint(got); s != tt.shown {
		t.Errorf("%T %q is written %q, want %q", got, tt.text, s, tt.shown)
	}
	if again, err := read[T](tt.shown); err != nil || fmt.Sprint(again) != tt.shown {
		t.Errorf("%T %q does not come back: %v, %v", got, tt.shown, again, err)
	}
}

func read[T any](text string) (T, error) {
	var v T
	err := any(&v).(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
	return v, err
}

// refuse checks that none of the texts is a T.
func refuse[T any](t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if v, err := read[T](text); err == nil {
			t.Errorf("%T %q is taken for %v", v, text, v)
		}
	}
}

func TestDuration(t *testing.T) {
	for _, tt := range []scalarTest[Duration]{
		{"10s", Duration(10 * time.Second), "10s"},
		{"1h30m", Duration(90 * time.Minute), "1h30m"},
		{"60m", Duration(time.Hour), "1h"},
		{"1h0m5s", Duration(time.Hour + 5*time.Second), "1h0m5s"},
		{"100ms", Duration(100 * time.Millisecond), "100ms"},
		{"1.5h", Duration(90 * time.Minute), "1h30m"},
		{"7d", Duration(7 * 24 * time.Hour), "7d"},
		{"1d12h", Duration(36 * time.Hour), "36h"},
		{"48h", Duration(48 * time.Hour), "2d"},
		{"off", Off, "off"},
	} {
		tt.run(t)
	}
	refuse[Duration](t, "", "soon", "10", "0", "-1", "0s", "-5s", "1.5", "10 s", "Off", "none", "1w", "d", "1d-1h", "-1d",
		"99999999d", "9999999999h", "1d1", "1.5d", "1d2d", "106751d")
}

func TestDurationHints(t *testing.T) {
	for text, want := range map[string]string{
		"10":   "want a time with its unit: write 30s, 10m, 1h30m or 7d",
		"0":    "want a time with its unit: write 30s, 10m, 1h30m or 7d",
		"-5s":  "want a time above zero, or off for no bound: write 30s",
		"0s":   "want a time above zero, or off for no bound: write 30s",
		"soon": "want a time such as 30s, 10m, 1h30m or 7d, or off",
	} {
		if _, err := read[Duration](text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if got := Duration(time.Minute).Duration(); got != time.Minute {
		t.Errorf("Duration = %v", got)
	}
}
