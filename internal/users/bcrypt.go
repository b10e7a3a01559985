package users

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/crypto/bcrypt"
)

// maxBcryptCost is one second of work, and each step up doubles it. htpasswd
// makes 5 unless told otherwise.
const maxBcryptCost = 14

// bcryptHash is a hash in the format of OpenBSD: $2y$05$, 22 characters of
// salt, 31 of hash. As everywhere, bytes after the 72nd do not count.
type bcryptHash string

func (h bcryptHash) matches(password string) bool {
	return bcrypt.CompareHashAndPassword([]byte(h), []byte(password)) == nil
}

func parseBcrypt(text string) (passwordHash, error) {
	const prefix, length = len("$2y$05$"), 60
	if len(text) != length || text[prefix-1] != '$' || !isCryptText(text[prefix:]) {
		return nil, errors.New("malformed bcrypt hash: want $2y$, two digits of cost, $ and 53 characters")
	}
	cost, err := strconv.ParseUint(text[prefix-3:prefix-1], 10, 8)
	if err != nil || int(cost) < bcrypt.MinCost || cost > maxBcryptCost {
		return nil, fmt.Errorf("bcrypt cost is out of range: want %02d to %d", bcrypt.MinCost, maxBcryptCost)
	}
	return bcryptHash(text), nil
}
