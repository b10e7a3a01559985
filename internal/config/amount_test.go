package config

import (
	"testing"
	"time"
)

func TestBandwidth(t *testing.T) {
	for _, tt := range []scalarTest[Bandwidth]{
		{"10Mbit/s", 1_250_000, "10Mbit/s"},
		{"10Mbit", 1_250_000, "10Mbit/s"},
		{"512kbit/s", 64_000, "512kbit/s"},
		{"1.5MB/s", 1_500_000, "12Mbit/s"},
		{"1MiB/s", 1 << 20, "1MiB/s"},
		{"1 GB/s", 1e9, "8Gbit/s"},
		{"0.3GB/s", 3e8, "2400Mbit/s"},
		{"1500bit/s", 187, "187B/s"},
		{"1B/s", 1, "1B/s"},
		{"2TB/s", 2e12, "16Tbit/s"},
	} {
		tt.run(t)
	}
	refuse[Bandwidth](t, "10", "", "10M", "10Mb/s", "10Mbps", "0Mbit/s", "-1MB/s", "7bit/s", "1e3MB/s", "fast", "1iB/s",
		"10Mbit/min", "99999999999TB/s", "MB/s", "1,5MB/s", "1..5MB", "1MB/s ")
}

func TestQuota(t *testing.T) {
	for _, tt := range []scalarTest[Quota]{
		{"10GB/day", Quota{1e10, "day"}, "10GB/day"},
		{"500MiB/hour", Quota{500 << 20, "hour"}, "500MiB/hour"},
		{"1TB/month", Quota{1e12, "month"}, "1TB/month"},
		{"1.5kB/week", Quota{1500, "week"}, "1500B/week"},
		{"2GB/total", Quota{2e9, "total"}, "2GB/total"},
	} {
		tt.run(t)
	}
	refuse[Quota](t, "10GB", "10GB/", "10GB/year", "10Gbit/day", "0GB/day", "10/day", "", "/day", "10GB/Day", "10GB/day/day")
}

func TestRate(t *testing.T) {
	for _, tt := range []scalarTest[Rate]{
		{"10/s", Rate{10, time.Second}, "10/s"},
		{"100/m", Rate{100, time.Minute}, "100/m"},
		{"3/h", Rate{3, time.Hour}, "3/h"},
		{"3/d", Rate{3, 24 * time.Hour}, "3/d"},
		{"5/10s", Rate{5, 10 * time.Second}, "5/10s"},
		{"5/1h30m", Rate{5, 90 * time.Minute}, "5/1h30m"},
		{"5/1s", Rate{5, time.Second}, "5/s"},
	} {
		tt.run(t)
	}
	refuse[Rate](t, "10", "10/", "/s", "0/s", "-1/s", "1.5/s", "10/fortnight", "10/10", "10/off", "", "99999999999/s", "10 /s")
}
