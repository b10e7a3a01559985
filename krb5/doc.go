// Package krb5 is the Kerberos V5 mechanism of the GSS-API (RFC 4121) without
// a C library: an [Initiator] with a credential cache or a keytab, an
// [Acceptor] with a keytab, and the security [Context] that the two establish,
// which protects messages. Its contexts are what package socks wants for
// METHOD 1 (RFC 1961).
//
// It speaks the encryption types of AES, with SHA-1 (RFC 3962) and with SHA-2
// (RFC 8009), and no weaker ones. Messages and files of Kerberos are taken
// apart by gokrb5; what protects a message is here, with keys that are derived
// once, since that is what the speed of a session depends on.
package krb5
