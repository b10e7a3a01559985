package users

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-crypt/x/crypt"
)

// The rounds of SHA-crypt. Passlib's default, 656000, is within the bounds.
const (
	minSHACryptRounds     = 1000
	defaultSHACryptRounds = 5000
	maxSHACryptRounds     = 1_000_000
)

// shaCrypt is a hash of Ulrich Drepper's "Unix crypt using SHA-256 and
// SHA-512": $5$ or $6$, perhaps rounds=N$, the salt, $ and the digest.
type shaCrypt struct {
	sha512 bool
	rounds int
	salt   string
	digest string // in crypt(3)'s base64
}

var errSHACryptForm = errors.New("malformed SHA-crypt hash: want $5$ or $6$, perhaps rounds=N$, 1 to 16 characters " +
	"of salt, $ and 43 or 86 characters")

func parseSHACrypt(text string) (passwordHash, error) {
	h := shaCrypt{sha512: text[1] == '6', rounds: defaultSHACryptRounds}
	part := strings.Split(text[len("$5$"):], "$")
	if digits, ok := strings.CutPrefix(part[0], "rounds="); ok {
		rounds, err := strconv.ParseUint(digits, 10, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) || strings.HasPrefix(digits, "0") {
			return nil, errSHACryptForm
		}
		if rounds < minSHACryptRounds || rounds > maxSHACryptRounds {
			return nil, fmt.Errorf("SHA-crypt rounds are out of range: want %d to %d", minSHACryptRounds, maxSHACryptRounds)
		}
		h.rounds = int(rounds)
		part = part[1:]
	}
	if len(part) != 2 {
		return nil, errSHACryptForm
	}
	h.salt, h.digest = part[0], part[1]
	size := 43
	if h.sha512 {
		size = 86
	}
	if h.salt == "" || len(h.salt) > 16 || len(h.digest) != size || !isCryptText(h.salt+h.digest) {
		return nil, errSHACryptForm
	}
	return h, nil
}

func (h shaCrypt) matches(password string) bool {
	sum := sha256.New
	if h.sha512 {
		sum = sha512.New
	}
	digest := crypt.KeySHACrypt(sum, []byte(password), []byte(h.salt), h.rounds)
	return subtle.ConstantTimeCompare(digest, []byte(h.digest)) == 1
}
