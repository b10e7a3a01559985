package users

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// What Hash uses: the first choice of OWASP's password storage cheat sheet.
const (
	argon2Memory  = 19456 // KiB
	argon2Passes  = 2
	argon2Threads = 1
	argon2Salt    = 16
	argon2Key     = 32
)

// The bounds of what the file may ask for. One hash within them takes about
// half a second; the defaults of PHP, Django, argon2-cffi and libsodium's
// interactive profile are within.
const (
	maxArgon2Memory  = 128 << 10 // KiB
	maxArgon2Passes  = 16
	maxArgon2Threads = 16
	maxArgon2Work    = 512 << 10 // KiB written: memory times passes
)

// argon2id is a hash of RFC 9106.
type argon2id struct {
	memory, passes uint32
	threads        uint8
	salt, key      []byte
}

// Hash returns an argon2id hash of password, as the users file keeps it.
func Hash(password string) string {
	h := argon2id{memory: argon2Memory, passes: argon2Passes, threads: argon2Threads, salt: make([]byte, argon2Salt)}
	rand.Read(h.salt) // never fails
	h.key = h.derive(password, argon2Key)
	return h.String()
}

// String returns the hash in the PHC string format.
func (h argon2id) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.threads,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.key))
}

func (h argon2id) derive(password string, size int) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.threads, uint32(size))
}

func (h argon2id) matches(password string) bool {
	return subtle.ConstantTimeCompare(h.derive(password, len(h.key)), h.key) == 1
}

var errArgon2Form = errors.New("malformed argon2id hash: want $argon2id$v=19$m=…,t=…,p=…$salt$hash")

// parseArgon2id reads $argon2id$v=19$m=19456,t=2,p=1$salt$hash.
func parseArgon2id(text string) (passwordHash, error) {
	part := strings.Split(text, "$")
	if len(part) != 6 || part[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, errArgon2Form
	}
	cost := strings.Split(part[3], ",")
	if len(cost) != 3 {
		return nil, errArgon2Form
	}
	m, errM := argon2Parameter(cost[0], "m=")
	t, errT := argon2Parameter(cost[1], "t=")
	p, errP := argon2Parameter(cost[2], "p=")
	salt, errSalt := base64.RawStdEncoding.Strict().DecodeString(part[4])
	key, errKey := base64.RawStdEncoding.Strict().DecodeString(part[5])
	if errors.Join(errM, errT, errP, errSalt, errKey) != nil {
		return nil, errArgon2Form
	}
	if err := checkArgon2Cost(m, t, p); err != nil {
		return nil, err
	}
	if len(salt) < 8 || len(salt) > 64 || len(key) < 16 || len(key) > 64 {
		return nil, errors.New("argon2id salt or hash of odd length: want 8 to 64 and 16 to 64 bytes")
	}
	return argon2id{memory: uint32(m), passes: uint32(t), threads: uint8(p), salt: salt, key: key}, nil
}

// argon2Parameter reads a cost such as m=19456. What is beyond an int64 is
// beyond every limit too.
func argon2Parameter(s, prefix string) (int64, error) {
	digits, ok := strings.CutPrefix(s, prefix)
	if !ok || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, errArgon2Form
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxInt64, nil
	}
	return n, err
}

func checkArgon2Cost(m, t, p int64) error {
	switch {
	case t < 1 || t > maxArgon2Passes:
		return fmt.Errorf("argon2id t is out of range: want 1 to %d", maxArgon2Passes)
	case p < 1 || p > maxArgon2Threads:
		return fmt.Errorf("argon2id p is out of range: want 1 to %d", maxArgon2Threads)
	case m < 8*p || m > maxArgon2Memory: // RFC 9106, section 3.1: at least 8*p
		return fmt.Errorf("argon2id m is out of range: want 8 times p to %d (KiB)", maxArgon2Memory)
	case m*t > maxArgon2Work:
		return fmt.Errorf("argon2id m times t is out of range: want at most %d", maxArgon2Work)
	}
	return nil
}
