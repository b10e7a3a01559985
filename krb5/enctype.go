package krb5

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/chksumtype"
	"github.com/jcmturner/gokrb5/v8/types"
)

// enctype is an encryption type. All of them have AES with ciphertext stealing
// and a confounder of one block.
type enctype struct {
	id      int32
	name    string
	keySize int
	macSize int
	hash    func() hash.Hash

	// overCipher says that the HMAC is of the ciphertext (RFC 8009, section 5)
	// and not of the plaintext (RFC 3961, section 5.3).
	overCipher bool
}

// enctypes are those of RFC 3962, section 7, and RFC 8009, section 7, the
// strongest first.
var enctypes = []*enctype{
	{id: 20, name: "aes256-cts-hmac-sha384-192", keySize: 32, macSize: 24, hash: sha512.New384, overCipher: true},
	{id: 18, name: "aes256-cts-hmac-sha1-96", keySize: 32, macSize: 12, hash: sha1.New},
	{id: 19, name: "aes128-cts-hmac-sha256-128", keySize: 16, macSize: 16, hash: sha256.New, overCipher: true},
	{id: 17, name: "aes128-cts-hmac-sha1-96", keySize: 16, macSize: 12, hash: sha1.New},
}

// weakNames are those of the types that are still met and not spoken here.
var weakNames = map[int32]string{
	1: "des-cbc-crc", 3: "des-cbc-md5", 16: "des3-cbc-sha1", 23: "rc4-hmac",
	25: "camellia128-cts-cmac", 26: "camellia256-cts-cmac",
}

// enctypeOf returns the type with that number.
func enctypeOf(id int32) (*enctype, error) {
	for _, e := range enctypes {
		if e.id == id {
			return e, nil
		}
	}
	if name := weakNames[id]; name != "" {
		return nil, fmt.Errorf("encryption type %s is not supported, only those of AES are", name)
	}
	return nil, fmt.Errorf("encryption type %d is not supported, only those of AES are", id)
}

// checkKey returns the type of a key whose length is right.
func checkKey(key types.EncryptionKey) (*enctype, error) {
	e, err := enctypeOf(key.KeyType)
	if err == nil && len(key.KeyValue) != e.keySize {
		err = fmt.Errorf("%s with a key of %d bytes", e.name, len(key.KeyValue))
	}
	return e, err
}

// checksumID returns the number of the type of its checksums.
func (e *enctype) checksumID() int32 {
	switch e.id {
	case 17:
		return chksumtype.HMAC_SHA1_96_AES128
	case 18:
		return chksumtype.HMAC_SHA1_96_AES256
	case 19:
		return chksumtype.HMAC_SHA256_128_AES128
	}
	return chksumtype.HMAC_SHA384_192_AES256
}

// newKey returns a random key.
func (e *enctype) newKey() types.EncryptionKey {
	value := make([]byte, e.keySize)
	_, _ = rand.Read(value) // never fails
	return types.EncryptionKey{KeyType: e.id, KeyValue: value}
}

// The last bytes of the constants that keys are derived with (RFC 3961,
// section 5.3).
const (
	forEncryption = 0xaa // Ke
	forIntegrity  = 0x55 // Ki
	forChecksum   = 0x99 // Kc
)

// derive returns the key that a key is for a usage.
func derive(key types.EncryptionKey, usage uint32, what byte) ([]byte, error) {
	e, err := checkKey(key)
	if err != nil {
		return nil, err
	}
	derivation, err := crypto.GetEtype(e.id)
	if err != nil {
		return nil, err
	}
	return derivation.DeriveKey(key.KeyValue, append(binary.BigEndian.AppendUint32(nil, usage), what))
}

// sealer encrypts and decrypts with one key for one usage. It is not for
// several goroutines at once.
type sealer struct {
	*enctype
	block    cipher.Block
	enc, dec cbc
	mac      hash.Hash
	sum      []byte
}

// cbc is CBC whose initial vector can be set again.
type cbc interface {
	cipher.BlockMode
	SetIV([]byte)
}

var zeroIV [aes.BlockSize]byte

func newSealer(key types.EncryptionKey, usage uint32) (*sealer, error) {
	e, err := checkKey(key)
	if err != nil {
		return nil, err
	}
	ke, err := derive(key, usage, forEncryption)
	if err != nil {
		return nil, err
	}
	ki, err := derive(key, usage, forIntegrity)
	if err != nil {
		return nil, err
	}
	s, err := newBlockSealer(ke)
	if err != nil {
		return nil, err
	}
	s.enctype, s.mac = e, hmac.New(e.hash, ki)
	return s, nil
}

// newBlockSealer returns the part of a sealer that has no integrity.
func newBlockSealer(ke []byte) (*sealer, error) {
	block, err := aes.NewCipher(ke)
	if err != nil {
		return nil, err
	}
	return &sealer{
		block: block,
		enc:   cipher.NewCBCEncrypter(block, zeroIV[:]).(cbc),
		dec:   cipher.NewCBCDecrypter(block, zeroIV[:]).(cbc),
	}, nil
}

// overhead is how much longer a ciphertext is than its plaintext.
func (s *sealer) overhead() int { return aes.BlockSize + s.macSize }

// seal appends the ciphertext of the joined parts to dst.
func (s *sealer) seal(dst []byte, parts ...[]byte) []byte {
	size := aes.BlockSize
	for _, p := range parts {
		size += len(p)
	}
	start := len(dst)
	// CBC wants room for whole blocks.
	dst = grow(dst, size+aes.BlockSize+s.macSize)
	b := dst[start : start+aes.BlockSize]
	_, _ = rand.Read(b) // never fails
	for _, p := range parts {
		b = append(b, p...)
	}
	return s.encrypt(dst[:start], b)
}

// encrypt encrypts b, which begins with the confounder, where it is: behind
// dst, with room for a block and the HMAC.
func (s *sealer) encrypt(dst, b []byte) []byte {
	if !s.overCipher {
		s.authenticate(b)
	}
	s.encryptCTS(b)
	if s.overCipher {
		s.authenticate(zeroIV[:], b)
	}
	dst = dst[:len(dst)+len(b)]
	return append(dst, s.sum[:s.macSize]...)
}

// authenticate leaves the HMAC in s.sum.
func (s *sealer) authenticate(parts ...[]byte) {
	s.mac.Reset()
	for _, p := range parts {
		s.mac.Write(p)
	}
	s.sum = s.mac.Sum(s.sum[:0])
}

var (
	errIntegrity = errors.New("integrity check failed: altered on the way, or made with another key")
	errTooShort  = errors.New("too short")
)

// open decrypts b where it is and returns the plaintext in it.
func (s *sealer) open(b []byte) ([]byte, error) {
	if len(b) < s.overhead() {
		return nil, errTooShort
	}
	b, sum := b[:len(b)-s.macSize], b[len(b)-s.macSize:]
	if s.overCipher {
		if s.authenticate(zeroIV[:], b); !hmac.Equal(sum, s.sum[:s.macSize]) {
			return nil, errIntegrity
		}
	}
	s.decryptCTS(b)
	if !s.overCipher {
		if s.authenticate(b); !hmac.Equal(sum, s.sum[:s.macSize]) {
			return nil, errIntegrity
		}
	}
	return b[aes.BlockSize:], nil
}

// encryptCTS is CBC with ciphertext stealing, where the last two blocks change
// places (RFC 3962, section 5). b has a block or more, and room for a whole
// one at its end.
func (s *sealer) encryptCTS(b []byte) {
	whole := b[:(len(b)+aes.BlockSize-1)/aes.BlockSize*aes.BlockSize]
	clear(whole[len(b):])
	s.enc.SetIV(zeroIV[:])
	s.enc.CryptBlocks(whole, whole)
	if len(b) > aes.BlockSize {
		last := len(whole) - aes.BlockSize
		saved := [aes.BlockSize]byte(whole[last:])
		copy(whole[last:], whole[last-aes.BlockSize:last])
		copy(whole[last-aes.BlockSize:], saved[:])
	}
}

// decryptCTS undoes encryptCTS, and needs no room.
func (s *sealer) decryptCTS(b []byte) {
	s.dec.SetIV(zeroIV[:])
	if len(b) == aes.BlockSize {
		s.dec.CryptBlocks(b, b)
		return
	}
	last := (len(b) - 1) / aes.BlockSize * aes.BlockSize
	front, back := b[:last-aes.BlockSize], b[last:]
	var before [aes.BlockSize]byte // the ciphertext before the two
	if len(front) > 0 {
		before = [aes.BlockSize]byte(front[len(front)-aes.BlockSize:])
	}
	var stolen, penultimate [aes.BlockSize]byte
	s.block.Decrypt(stolen[:], b[last-aes.BlockSize:last])
	penultimate = stolen
	copy(penultimate[:], back)
	for i := range back {
		back[i] ^= stolen[i]
	}
	s.block.Decrypt(penultimate[:], penultimate[:])
	for i := range penultimate {
		b[last-aes.BlockSize+i] = penultimate[i] ^ before[i]
	}
	s.dec.CryptBlocks(front, front)
}

// summer makes checksums with one key for one usage. It is not for several
// goroutines at once.
type summer struct {
	*enctype
	mac hash.Hash
	sum []byte
}

func newSummer(key types.EncryptionKey, usage uint32) (*summer, error) {
	e, err := checkKey(key)
	if err != nil {
		return nil, err
	}
	kc, err := derive(key, usage, forChecksum)
	if err != nil {
		return nil, err
	}
	return &summer{enctype: e, mac: hmac.New(e.hash, kc)}, nil
}

// checksum returns the checksum of the joined parts, valid until the next call.
func (s *summer) checksum(parts ...[]byte) []byte {
	s.mac.Reset()
	for _, p := range parts {
		s.mac.Write(p)
	}
	s.sum = s.mac.Sum(s.sum[:0])
	return s.sum[:s.macSize]
}

// encryptData encrypts a part of a Kerberos message.
func encryptData(key types.EncryptionKey, usage uint32, plain []byte) (types.EncryptedData, error) {
	s, err := newSealer(key, usage)
	if err != nil {
		return types.EncryptedData{}, err
	}
	return types.EncryptedData{EType: key.KeyType, Cipher: s.seal(nil, plain)}, nil
}

// decryptData decrypts a part of a Kerberos message.
func decryptData(key types.EncryptionKey, usage uint32, data types.EncryptedData) ([]byte, error) {
	if data.EType != key.KeyType {
		return nil, fmt.Errorf("encryption type %d, the key has %d", data.EType, key.KeyType)
	}
	s, err := newSealer(key, usage)
	if err != nil {
		return nil, err
	}
	return s.open(append([]byte(nil), data.Cipher...))
}

// grow makes room for n bytes behind dst.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst
	}
	return append(make([]byte, 0, len(dst)+n), dst...)
}
