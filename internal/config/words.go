package config

import (
	"fmt"
	"slices"
	"strings"
)

// choice is a string type that has one of a few values, or "" if absent.
type choice interface {
	~string
	shape() shape
}

// choose reads one of the values of T.
func choose[T choice](dst *T, text []byte) error {
	words := (*dst).shape().words
	if !slices.Contains(words, string(text)) {
		return fmt.Errorf("want %s", orList(words))
	}
	*dst = T(text)
	return nil
}

// oneOf is the shape of a choice.
func oneOf[T choice](values ...T) shape {
	s := shape{one: "a word", many: "words"}
	for _, v := range values {
		s.words = append(s.words, string(v))
	}
	return s
}

// orList writes words as a sentence does: a, b or c.
func orList(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// Auth is how a client makes itself known.
type Auth string

// The ways in which clients make themselves known.
const (
	AuthNone        Auth = "none"
	AuthPassword    Auth = "password"
	AuthCertificate Auth = "certificate"
	AuthGSSAPI      Auth = "gssapi"
	AuthUID         Auth = "uid"
)

// UnmarshalText reads one of the values.
func (a *Auth) UnmarshalText(text []byte) error { return choose(a, text) }

// String returns a as it is read.
func (a Auth) String() string { return string(a) }

func (Auth) shape() shape {
	return oneOf(AuthNone, AuthPassword, AuthCertificate, AuthGSSAPI, AuthUID)
}

// Level is the least protection that clients of GSS-API must ask for.
type Level string

// The levels; absent means clear.
const (
	LevelClear           Level = "clear"
	LevelIntegrity       Level = "integrity"
	LevelConfidentiality Level = "confidentiality"
	LevelClearOnly       Level = "clear-only"
)

// UnmarshalText reads one of the values.
func (l *Level) UnmarshalText(text []byte) error { return choose(l, text) }

// String returns l as it is read.
func (l Level) String() string { return string(l) }

func (Level) shape() shape {
	return oneOf(LevelClear, LevelIntegrity, LevelConfidentiality, LevelClearOnly)
}

// Command is what a client asks for, or what comes back.
type Command string

// The commands that rules tell apart.
const (
	CommandConnect   Command = "connect"
	CommandBind      Command = "bind"
	CommandUDP       Command = "udp"
	CommandBindReply Command = "bind-reply"
	CommandUDPReply  Command = "udp-reply"
)

// UnmarshalText reads one of the values.
func (c *Command) UnmarshalText(text []byte) error { return choose(c, text) }

// String returns c as it is read.
func (c Command) String() string { return string(c) }

func (Command) shape() shape {
	return oneOf(CommandConnect, CommandBind, CommandUDP, CommandBindReply, CommandUDPReply)
}

// ChainMode is how a chain is gone through.
type ChainMode string

// The modes of chains; absent means strict.
const (
	ChainStrict  ChainMode = "strict"
	ChainDynamic ChainMode = "dynamic"
	ChainRandom  ChainMode = "random"
)

// UnmarshalText reads one of the values.
func (c *ChainMode) UnmarshalText(text []byte) error { return choose(c, text) }

// String returns c as it is read.
func (c ChainMode) String() string { return string(c) }

func (ChainMode) shape() shape {
	return oneOf(ChainStrict, ChainDynamic, ChainRandom)
}

// Pick is how a member of a group is chosen.
type Pick string

// The ways to choose from a group; absent means failover.
const (
	PickFailover          Pick = "failover"
	PickRoundRobin        Pick = "round-robin"
	PickRandom            Pick = "random"
	PickLeastSessions     Pick = "least-sessions"
	PickLowestLatency     Pick = "lowest-latency"
	PickStickyUser        Pick = "sticky-user"
	PickStickyDestination Pick = "sticky-destination"
)

// UnmarshalText reads one of the values.
func (p *Pick) UnmarshalText(text []byte) error { return choose(p, text) }

// String returns p as it is read.
func (p Pick) String() string { return string(p) }

func (Pick) shape() shape {
	return oneOf(PickFailover, PickRoundRobin, PickRandom, PickLeastSessions, PickLowestLatency, PickStickyUser, PickStickyDestination)
}

// SourcePick is how an address to come from is chosen.
type SourcePick string

// The ways to choose an address to come from.
const (
	SourceRandom      SourcePick = "random"
	SourceTurn        SourcePick = "turn"
	SourceUser        SourcePick = "user"
	SourceDestination SourcePick = "destination"
)

// UnmarshalText reads one of the values.
func (s *SourcePick) UnmarshalText(text []byte) error { return choose(s, text) }

// String returns s as it is read.
func (s SourcePick) String() string { return string(s) }

func (SourcePick) shape() shape {
	return oneOf(SourceRandom, SourceTurn, SourceUser, SourceDestination)
}

// Prefer is which family of addresses comes first, or alone.
type Prefer string

// The preferences of families; absent means none.
const (
	PreferIPv4     Prefer = "ipv4"
	PreferIPv6     Prefer = "ipv6"
	PreferIPv4Only Prefer = "ipv4-only"
	PreferIPv6Only Prefer = "ipv6-only"
)

// UnmarshalText reads one of the values.
func (p *Prefer) UnmarshalText(text []byte) error { return choose(p, text) }

// String returns p as it is read.
func (p Prefer) String() string { return string(p) }

func (Prefer) shape() shape {
	return oneOf(PreferIPv4, PreferIPv6, PreferIPv4Only, PreferIPv6Only)
}

// Action is what a rule does.
type Action string

// The actions of rules.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// UnmarshalText reads one of the values.
func (a *Action) UnmarshalText(text []byte) error { return choose(a, text) }

// String returns a as it is read.
func (a Action) String() string { return string(a) }

func (Action) shape() shape {
	return oneOf(Allow, Deny)
}

// LogLevel is the level of log lines.
type LogLevel string

// The levels of log lines; absent means info.
const (
	LogOff   LogLevel = "off"
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// UnmarshalText reads one of the values.
func (l *LogLevel) UnmarshalText(text []byte) error { return choose(l, text) }

// String returns l as it is read.
func (l LogLevel) String() string { return string(l) }

func (LogLevel) shape() shape {
	return oneOf(LogOff, LogDebug, LogInfo, LogWarn, LogError)
}

// ReloadSessions is what a reload does to sessions.
type ReloadSessions string

// What a reload does to sessions; absent means keep.
const (
	Keep       ReloadSessions = "keep"
	EndRefused ReloadSessions = "end-refused"
)

// UnmarshalText reads one of the values.
func (r *ReloadSessions) UnmarshalText(text []byte) error { return choose(r, text) }

// String returns r as it is read.
func (r ReloadSessions) String() string { return string(r) }

func (ReloadSessions) shape() shape {
	return oneOf(Keep, EndRefused)
}
