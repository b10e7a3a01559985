package fakedns

import "strings"

// isHostName reports whether name can be one of a host: labels of letters,
// digits, hyphens and, as they are used, underscores (RFC 1123, section 2.1),
// in lower case, without a final dot, and not an IPv4 address.
func isHostName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	var last string
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return false
		}
		last = label
	}
	return !isNumber(last)
}

func isLabel(label string) bool {
	if label == "" || len(label) > 63 {
		return false
	}
	for _, c := range []byte(label) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// isNumber reports whether programs may read a name that ends in label as an
// IPv4 address: 127.1, 0x7f000001.
func isNumber(label string) bool {
	if digits, hex := strings.CutPrefix(label, "0x"); hex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}
