package config

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Duration is how long something takes; -1, written off, is without end.
type Duration time.Duration

// Off is the Duration without end.
const Off Duration = -1

const day = 24 * time.Hour

var (
	errDuration     = errors.New("want a time such as 30s, 10m, 1h30m or 7d, or off")
	errBareNumber   = errors.New("want a time with its unit: write 30s, 10m, 1h30m or 7d")
	errZeroDuration = errors.New("want a time above zero, or off for no bound: write 30s")
)

// UnmarshalText reads times such as 1h30m, 7d, or off.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "off" {
		*d = Off
		return nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return errBareNumber
	}
	days, rest, found := strings.Cut(s, "d")
	if !found {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16) // 65535 days fit into a time.Duration
	if err != nil {
		return errDuration
	}
	sum := time.Duration(n) * day
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || found && more < 0 {
			return errDuration
		}
		sum += more
	}
	if sum <= 0 {
		return errZeroDuration
	}
	*d = Duration(sum)
	return nil
}

// Duration returns d as a time.Duration, negative if there is no end.
func (d Duration) Duration() time.Duration { return time.Duration(d) }

// String writes d as it is read.
func (d Duration) String() string {
	if d < 0 {
		return "off"
	}
	return shortDuration(time.Duration(d))
}

// shortDuration leaves out what is zero: 1h and not 1h0m0s.
func shortDuration(d time.Duration) string {
	if d >= day && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (Duration) shape() shape {
	return shape{one: "a time", many: "times", pattern: `^(off|[0-9.]+(ns|us|µs|ms|s|m|h|d)([0-9.]+(ns|us|µs|ms|s|m|h))*)$`}
}
