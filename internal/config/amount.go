package config

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Rate is how often something may happen: N times in Per.
type Rate struct {
	N   int
	Per time.Duration
}

var (
	errRate    = errors.New("want a rate such as 10/s, 100/m or 5/10s")
	ratePeriod = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day}
)

// UnmarshalText reads rates such as 10/s or 5/10s.
func (r *Rate) UnmarshalText(text []byte) error {
	number, unit, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || n == 0 {
		return errRate
	}
	per := ratePeriod[unit]
	if per == 0 {
		var d Duration
		if d.UnmarshalText([]byte(unit)) != nil || d < 0 {
			return errRate
		}
		per = d.Duration()
	}
	*r = Rate{N: int(n), Per: per}
	return nil
}

// String writes r as it is read.
func (r Rate) String() string {
	per := shortDuration(r.Per)
	for unit, d := range ratePeriod {
		if d == r.Per {
			per = unit
		}
	}
	return strconv.Itoa(r.N) + "/" + per
}

func (Rate) shape() shape {
	return shape{one: "a rate", many: "rates", pattern: `^[0-9]+/([smhd]|[0-9.]+(ms|s|m|h|d)([0-9.]+(ms|s|m|h))*)$`}
}

// Bandwidth is a number of bytes a second.
type Bandwidth int64

var errBandwidth = errors.New("want a bandwidth such as 10Mbit/s, 512kbit/s or 1.5MB/s")

// UnmarshalText reads bandwidths in bits or bytes; /s may be left out.
func (b *Bandwidth) UnmarshalText(text []byte) error {
	bits, err := parseBits(strings.TrimSuffix(string(text), "/s"))
	if err != nil || bits < 8 {
		return errBandwidth
	}
	*b = Bandwidth(bits / 8)
	return nil
}

// String writes b as it is read.
func (b Bandwidth) String() string { return amountString(int64(b), "bit") + "/s" }

func (Bandwidth) shape() shape {
	return shape{one: "a bandwidth", many: "bandwidths", pattern: `^[0-9]+(\.[0-9]+)? ?[kKmMgGtT]?i?(bit|B)(/s)?$`}
}

// Quota is a number of bytes in a period: hour, day, week, month or total.
type Quota struct {
	Bytes  int64
	Period string
}

var errQuota = errors.New("want bytes and a period, such as 10GB/day; the periods are hour, day, week, month and total")

// UnmarshalText reads quotas such as 10GB/day.
func (q *Quota) UnmarshalText(text []byte) error {
	amount, period, _ := strings.Cut(string(text), "/")
	switch period {
	case "hour", "day", "week", "month", "total":
	default:
		return errQuota
	}
	bits, err := parseBits(amount)
	if err != nil || bits < 8 || strings.HasSuffix(amount, "bit") {
		return errQuota
	}
	*q = Quota{Bytes: bits / 8, Period: period}
	return nil
}

// String writes q as it is read.
func (q Quota) String() string { return amountString(q.Bytes, "B") + "/" + q.Period }

func (Quota) shape() shape {
	return shape{one: "a quota", many: "quotas", pattern: `^[0-9]+(\.[0-9]+)? ?[kKmMgGtT]?i?B/(hour|day|week|month|total)$`}
}

// amount is a number, a prefix, i for powers of 1024, and the unit. Mb is not
// there: half of those who write it mean bytes.
var amount = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([kKmMgGtT]?)(i?)(bit|B)$`)

// parseBits reads an amount such as 1.5MiB or 10Mbit as a number of bits.
func parseBits(s string) (int64, error) {
	parts := amount.FindStringSubmatch(s)
	if parts == nil || parts[2] == "" && parts[3] != "" {
		return 0, errors.New("not an amount")
	}
	n, err := strconv.ParseFloat(parts[1], 64)
	if err != nil {
		return 0, err
	}
	thousand := 1000.0
	if parts[3] == "i" {
		thousand = 1024
	}
	n *= math.Pow(thousand, float64(strings.Index(" kmgt", strings.ToLower(parts[2]))))
	if parts[4] == "B" {
		n *= 8
	}
	if n >= 1<<62 {
		return 0, errors.New("too much")
	}
	return int64(n + 0.5), nil // what is no binary fraction may end just below
}

// amountString writes bytes exactly, in the unit that takes the smallest number.
func amountString(bytes int64, unit string) string {
	n := bytes
	if unit == "bit" {
		n *= 8
	}
	least, name := bytes, "B"
	for _, u := range []struct {
		n, size int64
		name    string
	}{
		{n, 1e12, "T" + unit}, {n, 1e9, "G" + unit}, {n, 1e6, "M" + unit}, {n, 1e3, "k" + unit},
		{bytes, 1 << 40, "TiB"}, {bytes, 1 << 30, "GiB"}, {bytes, 1 << 20, "MiB"}, {bytes, 1 << 10, "KiB"},
	} {
		if u.n%u.size == 0 && u.n/u.size < least {
			least, name = u.n/u.size, u.name
		}
	}
	return strconv.FormatInt(least, 10) + name
}
