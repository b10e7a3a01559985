package krb5

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/types"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestStealing has the vectors of RFC 3962, appendix B: of the key "chicken
// teriyaki", which here takes the place of a derived one.
func TestStealing(t *testing.T) {
	const text = "I would like the General Gau's Chicken, please, and wonton soup."
	for size, want := range map[int]string{
		17: "c6353568f2bf8cb4d8a580362da7ff7f97",
		31: "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5",
		32: "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584",
		47: "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5",
		48: "97687268d6ecccc0c07b25e25ecfe5849dad8bbb96c4cdc03bc103e1a194bbd839312523a78662d5be7fcbcc98ebf5a8",
		64: "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a84807efe836ee89a526730dbc2f7bc8409dad8bbb96c4cdc03bc103e1a194bbd8",
	} {
		s := sealerOf(t, []byte("chicken teriyaki"))
		b := append(make([]byte, 0, 128), text[:size]...)
		s.encryptCTS(b)
		if hex.EncodeToString(b) != want {
			t.Errorf("%d bytes: %x, want %s", size, b, want)
		}
		s.decryptCTS(b)
		if string(b) != text[:size] {
			t.Errorf("%d bytes: decrypted to %q", size, b)
		}
	}
}

// sealerOf returns a sealer whose block cipher has that key.
func sealerOf(t *testing.T, ke []byte) *sealer {
	t.Helper()
	s, err := newBlockSealer(ke)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSHA2 has the vectors of RFC 8009, appendix A, for usage 2.
func TestSHA2(t *testing.T) {
	const (
		plain6  = "000102030405"
		plain16 = "000102030405060708090a0b0c0d0e0f"
		plain21 = plain16 + "1011121314"
	)
	for _, of := range []struct {
		id       int32
		key      string
		checksum string // of plain21
		messages [][3]string
	}{
		{19, "3705d96080c17728a0e800eab6e0d23c", "d78367186643d67b411cba9139fc1dee", [][3]string{
			{"7e5895eaf2672435bad817f545a37148", "", "ef85fb890bb8472f4dab20394dca781dad877eda39d50c870c0d5a0a8e48c718"},
			{"7bca285e2fd4130fb55b1a5c83bc5b24", plain6, "84d7f30754ed987bab0bf3506beb09cfb55402cef7e6877ce99e247e52d16ed4421dfdf8976c"},
			{"56ab21713ff62c0a1457200f6fa9948f", plain16, "3517d640f50ddc8ad3628722b3569d2ae07493fa8263254080ea65c1008e8fc295fb4852e7d83e1e7c48c37eebe6b0d3"},
			{"a7a4e29a4728ce10664fb64e49ad3fac", plain21, "720f73b18d9859cd6ccb4346115cd336c70f58edc0c4437c5573544c31c813bce1e6d072c186b39a413c2f92ca9b8334a287ffcbfc"},
		}},
		{20, "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52", "45ee791567eefca37f4ac1e0222de80d43c3bfa06699672a", [][3]string{
			{"f764e9fa15c276478b2c7d0c4e5f58e4", "", "41f53fa5bfe7026d91faf9be959195a058707273a96a40f0a01960621ac612748b9bbfbe7eb4ce3c"},
			{"b80d3251c1f6471494256ffe712d0b9a", plain6, "4ed7b37c2bcac8f74f23c1cf07e62bc7b75fb3f637b9f559c7f664f69eab7b6092237526ea0d1f61cb20d69d10f2"},
			{"53bf8a0d105265d4e276428624ce5e63", plain16, "bc47ffec7998eb91e8115cf8d19dac4bbbe2e163e87dd37f49beca92027764f68cf51f14d798c2273f35df574d1f932e40c4ff255b36a266"},
			{"763e65367e864f02f55153c7e3b58af1", plain21, "40013e2df58e8751957d2878bcd2d6fe101ccfd556cb1eae79db3c3ee86429f2b2a602ac86fef6ecb647d6295fae077a1feb517508d2c16b4192e01f62"},
		}},
	} {
		key := types.EncryptionKey{KeyType: of.id, KeyValue: unhex(t, of.key)}
		sums, err := newSummer(key, 2)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(sums.checksum(unhex(t, plain16), unhex(t, plain21[32:]))); got != of.checksum {
			t.Errorf("%d: checksum %s, want %s", of.id, got, of.checksum)
		}
		s, err := newSealer(key, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range of.messages {
			confounded := append(make([]byte, 0, 128), unhex(t, m[0]+m[1])...)
			got := s.encrypt(confounded[:0], confounded)
			if hex.EncodeToString(got) != m[2] {
				t.Errorf("%d: %q encrypts to %x, want %s", of.id, m[1], got, m[2])
			}
			plain, err := s.open(got)
			if err != nil || hex.EncodeToString(plain) != m[1] {
				t.Errorf("%d: %q decrypts to %x, %v", of.id, m[1], plain, err)
			}
		}
	}
}

// TestAgainstGokrb5 seals and opens with the other's code at the other end, at
// every type, for which RFC 3962 has no vectors of whole messages.
func TestAgainstGokrb5(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, e := range enctypes {
		key := e.newKey()
		s, err := newSealer(key, 22)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := crypto.GetEtype(e.id)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			plain := make([]byte, random.IntN(200))
			for i := range plain {
				plain[i] = byte(random.Uint32())
			}
			cut := random.IntN(len(plain) + 1)
			cipher := s.seal(nil, plain[:cut], plain[cut:])
			if len(cipher) != len(plain)+s.overhead() {
				t.Fatalf("%s: %d bytes for %d", e.name, len(cipher), len(plain))
			}
			got, err := theirs.DecryptMessage(key.KeyValue, cipher, 22)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%s: they open %d bytes to %x, %v", e.name, len(plain), got, err)
			}
			_, cipher, err = theirs.EncryptMessage(key.KeyValue, plain, 22)
			if err != nil {
				t.Fatal(err)
			}
			got, err = s.open(cipher)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%s: we open %d bytes to %x, %v", e.name, len(plain), got, err)
			}
		}
	}
}

// TestFlippedBits changes every bit of a ciphertext.
func TestFlippedBits(t *testing.T) {
	for _, e := range enctypes {
		s, err := newSealer(e.newKey(), 24)
		if err != nil {
			t.Fatal(err)
		}
		cipher := s.seal(nil, []byte("a message of more than two blocks, and a bit"))
		for bit := range len(cipher) * 8 {
			b := bytes.Clone(cipher)
			b[bit/8] ^= 1 << (bit % 8)
			if plain, err := s.open(b); err == nil {
				t.Fatalf("%s: bit %d flipped: %q", e.name, bit, plain)
			}
		}
		for n := range cipher {
			if plain, err := s.open(bytes.Clone(cipher[:n])); err == nil {
				t.Fatalf("%s: cut to %d bytes: %q", e.name, n, plain)
			}
		}
	}
}

func BenchmarkWrap(b *testing.B) {
	for _, e := range enctypes {
		for _, conf := range []bool{false, true} {
			for _, size := range []int{1400, 16 << 10, 64000} {
				b.Run(fmt.Sprintf("%s/conf=%v/%d", e.name, conf, size), func(b *testing.B) {
					mine, theirs := pairOf(e)
					msg, buf := make([]byte, size), make([]byte, 0, 66000)
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						token, err := mine.Wrap(buf[:0], msg, conf)
						if err == nil {
							_, _, err = theirs.Unwrap(token, true)
						}
						if err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// pairOf returns both ends of a context.
func pairOf(e *enctype) (initiator, acceptor *Context) {
	initiator, acceptor = new(Context), new(Context)
	key := e.newKey()
	initiator.establish(key, false, true, 7, 9)
	acceptor.establish(key, true, true, 9, 7)
	return initiator, acceptor
}
