package users

import (
	"errors"
	"strings"
)

// A passwordHash is what the file keeps of a password.
type passwordHash interface {
	// matches reports whether password is the one. It is expensive, bounded by
	// the limits that parsing sets, and compares in constant time.
	matches(password string) bool
}

const wantHash = "want argon2id ($argon2id$…), bcrypt ($2a$, $2b$, $2y$) or SHA-crypt ($5$, $6$)"

var (
	errClearText = errors.New("a clear-text password or a hash of unknown format: " + wantHash +
		"; argyle passwd makes one")
	errWeakHash = errors.New("{SHA} and apr1/MD5 hashes are not read: make bcrypt with htpasswd -B")
	errYescrypt = errors.New("yescrypt and scrypt hashes are not read: make SHA-crypt with mkpasswd -m sha-512")
	errArgon2   = errors.New("argon2i and argon2d hashes are not read: make argon2id with argyle passwd")
	errNoHash   = errors.New("the hash is missing: " + wantHash)
)

// parseHash reads any hash of the formats above. Its errors do not quote it.
func parseHash(text string) (passwordHash, error) {
	has := func(prefix string) bool { return strings.HasPrefix(text, prefix) }
	switch {
	case text == "":
		return nil, errNoHash
	case has("$argon2id$"):
		return parseArgon2id(text)
	case has("$2a$"), has("$2b$"), has("$2y$"):
		return parseBcrypt(text)
	case has("$5$"), has("$6$"):
		return parseSHACrypt(text)
	case has("{SHA}"), has("{SSHA}"), has("$apr1$"), has("$1$"):
		return nil, errWeakHash
	case has("$y$"), has("$gy$"), has("$7$"):
		return nil, errYescrypt
	case has("$argon2i$"), has("$argon2d$"):
		return nil, errArgon2
	}
	return nil, errClearText
}

// cryptAlphabet is the base64 of crypt(3), for bcrypt's and SHA-crypt's texts.
const cryptAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func isCryptText(s string) bool {
	return strings.Trim(s, cryptAlphabet) == ""
}
