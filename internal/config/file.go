// Package config is the configuration file of argyle as a struct. It builds
// nothing: whoever reads a [File] makes the objects.
//
//	listen: 127.0.0.1:1080
//	upstreams:
//	  office: socks5h://gw.corp.example
//	rules:
//	  - {to: .corp.example, via: office}
//	  - {action: deny, port: 25}
//	  - {action: allow}
//
// Where a list is wanted, one value stands for a list of one. A struct with a
// field tagged short may be written as that field alone. The tags doc are what
// the JSON Schema and the manual say of a key.
package config

import "net/netip"

// File is a whole configuration. What it does not say is as without a file.
type File struct {
	Listen       []Listener          `yaml:"listen" doc:"where to listen; 127.0.0.1:1080 and [::1]:1080 if absent"`
	TLS          *TLS                `yaml:"tls" doc:"serve the same protocols inside TLS, on the same ports"`
	Auth         *Authentication     `yaml:"auth" doc:"further ways in which clients make themselves known"`
	Users        *Users              `yaml:"users" doc:"who has a password, and who belongs to which group"`
	Allow        []Network           `yaml:"allow" doc:"client networks that may use the proxy"`
	Open         bool                `yaml:"open" doc:"let anybody use it"`
	AllowPrivate bool                `yaml:"allow-private" doc:"let clients from elsewhere reach loopback, private, link-local and metadata addresses"`
	Proxy        []ProxyURL          `yaml:"proxy" doc:"the way out where no rule names one: proxy URLs or names of upstreams, nearest first; direct if absent"`
	Upstreams    map[string]Upstream `yaml:"upstreams" doc:"ways out by name, for via"`
	Names        Names               `yaml:"names" doc:"how names are looked up"`
	Sets         map[string]Set      `yaml:"sets" doc:"named lists of destinations or networks, for set:NAME in rules"`
	Rules        []Rule              `yaml:"rules" doc:"who may go where; the first that matches decides, and what none matches is denied; without the key everything is allowed"`
	Limits       Limits              `yaml:"limits" doc:"what sessions may use"`
	Gateway      *Gateway            `yaml:"gateway" doc:"what argyle gateway does"`
	Timeouts     Timeouts            `yaml:"timeouts" doc:"how long things may take where a rule says nothing else"`
	State        string              `yaml:"state" doc:"directory for what must outlive a restart: the quotas, and the names of a gateway"`
	Reload       Reload              `yaml:"reload" doc:"what a new configuration does to sessions"`
	Forward      []Forward           `yaml:"forward" doc:"what argyle forward carries, as tcp/5432=db.lan:5432"`
	Drain        *Duration           `yaml:"drain" doc:"how long SIGTERM waits for sessions; 30s if absent"`
	Tests        []Test              `yaml:"tests" doc:"requests and what must be decided about them; one that fails refuses the file"`

	source *source // where everything stands
}

// Listener is one way in.
type Listener struct {
	Address       string    `yaml:"address" short:"true" doc:"host:port, :port, unix:/path or systemd:NAME"`
	Name          string    `yaml:"name" doc:"what rules and logs call it; its address if absent"`
	Auth          []Auth    `yaml:"auth" doc:"how clients may make themselves known here: none, password, certificate, gssapi, uid; if absent: gssapi where auth has it, password where there are users, certificate where there is a client CA, else none"`
	ProxyProtocol []Network `yaml:"proxy-protocol" doc:"networks whose connections begin with a PROXY header, version 1 or 2, that tells the client's address"`
	Mode          FileMode  `yaml:"mode" doc:"of a unix socket, such as 0660"`
}

// Forward is one of argyle forward.
type Forward struct {
	Spec ForwardSpec `yaml:"spec" short:"true" doc:"tcp/[HOST:]PORT=HOST:PORT, udp/[HOST:]PORT=HOST:PORT, unix:/PATH=HOST:PORT, stdio=HOST:PORT or bind/HOST:PORT=HOST:PORT"`
	Name string      `yaml:"name" doc:"what rules and logs call it; what is before the = if absent"`
}

// TLS is the server's certificate.
type TLS struct {
	Cert     string `yaml:"cert" doc:"file of the certificate"`
	Key      string `yaml:"key" doc:"file of its key"`
	ClientCA string `yaml:"client-ca" doc:"file of the authorities whose certificates make clients known"`
}

// Authentication has the ways that need settings.
type Authentication struct {
	GSSAPI *GSSAPI `yaml:"gssapi" doc:"Kerberos tickets, for SOCKS 5 (RFC 1961)"`
}

// GSSAPI is authentication by Kerberos tickets.
type GSSAPI struct {
	Keytab     string            `yaml:"keytab" doc:"file with the service's keys; if absent that of KRB5_KTNAME, or /etc/krb5.keytab"`
	Service    string            `yaml:"service" doc:"service that tickets are for: a name, or a whole principal such as rcmd/gw.example.com, and @ and its realm if only tickets of that are taken; rcmd if absent"`
	Level      Level             `yaml:"level" doc:"least protection of what follows: clear, integrity or confidentiality; or clear-only, which protects nothing, whatever is asked for, as curl needs it; clear if absent"`
	Principals []string          `yaml:"principals" doc:"who may log in: principals, * is any text; those of the keytab's realms if absent"`
	Map        map[string]string `yaml:"map" doc:"user names by principal; * is any text, and in the name what it stood for; the whole principal where none matches"`
	NEC        bool              `yaml:"nec" doc:"accept a protection level that is not protected itself, as old NEC clients send it"`
}

// Users are those who have a password.
type Users struct {
	File   string              `yaml:"file" short:"true" doc:"users file (see argyle passwd)"`
	Groups map[string][]string `yaml:"groups" doc:"users by group; *@REALM is everybody with a ticket of a realm, sid:S-1-5-… a group of Active Directory"`
}

// Upstream is a way out: a chain of proxies, a group to choose from, or direct.
type Upstream struct {
	Chain    []ProxyURL `yaml:"chain" short:"true" doc:"proxy URLs or names of upstreams, nearest first"`
	Mode     ChainMode  `yaml:"mode" doc:"strict: all in order; dynamic: dead ones are left out; random: length of them, drawn for each connection"`
	Length   int        `yaml:"length" doc:"how many a random chain draws; all if absent"`
	Group    []ProxyURL `yaml:"group" doc:"names of upstreams or proxy URLs to choose from; direct is one"`
	Pick     Pick       `yaml:"pick" doc:"how to choose: failover, round-robin, random, least-sessions, lowest-latency, sticky-user, sticky-destination"`
	Check    *Check     `yaml:"check" doc:"look from time to time whether the members live"`
	Direct   *Source    `yaml:"direct" doc:"no proxy, but from these addresses"`
	User     string     `yaml:"user" doc:"name for the last proxy of the chain, in place of one in its URL"`
	Password Secret     `yaml:"password" doc:"password for it"`
}

// Check is how the members of a group or chain are looked at.
type Check struct {
	Every   Duration `yaml:"every" short:"true" doc:"time between two looks"`
	Timeout Duration `yaml:"timeout" doc:"how long one may take; 5s if absent"`
	Target  string   `yaml:"target" doc:"host:port to connect to through the member; if absent, the handshake with it is enough"`
}

// Source is where connections come from.
type Source struct {
	Address   []Network  `yaml:"address" short:"true" doc:"addresses, or whole prefixes that the host owns"`
	Pick      SourcePick `yaml:"pick" doc:"which one: random, turn, user (always the same for a user) or destination"`
	Interface string     `yaml:"interface" doc:"network interface (Linux)"`
	Mark      uint32     `yaml:"mark" doc:"firewall mark (Linux)"`
}

// Names is how names are looked up.
type Names struct {
	Servers []string                `yaml:"servers" doc:"own DNS servers: an address, udp://, tcp://, tls:// or https:// URL, or system; the system's resolver if absent"`
	Split   map[string][]string     `yaml:"split" doc:"servers for a domain and all below it"`
	Hosts   map[string][]netip.Addr `yaml:"hosts" doc:"addresses of names, before any look-up"`
	Prefer  Prefer                  `yaml:"prefer" doc:"ipv4, ipv6, ipv4-only or ipv6-only"`
	Cache   Cache                   `yaml:"cache" doc:"what is kept of answers"`
}

// Cache is what is kept of the answers of name servers.
type Cache struct {
	Size   int      `yaml:"size" doc:"how many; 10000 if absent, negative for none"`
	MaxTTL Duration `yaml:"max-ttl" doc:"how long at most; 1h if absent"`
}

// Set is a named list of destinations or networks.
type Set struct {
	Entries []string `yaml:"entries" short:"true" doc:"names, globs, networks"`
	File    string   `yaml:"file" doc:"file with an entry a line; read again when it changes"`
}

// Rule is one rule. Its conditions must all hold; a list has alternatives.
type Rule struct {
	Name      string    `yaml:"name" doc:"what logs and explain call it"`
	Client    []string  `yaml:"client" doc:"client networks or set:NAME"`
	Listener  []string  `yaml:"listener" doc:"names of listeners"`
	User      []string  `yaml:"user" doc:"user names; * is anybody who is known, *@REALM anybody with a ticket of a realm"`
	Group     []string  `yaml:"group" doc:"groups of users"`
	Auth      []Auth    `yaml:"auth" doc:"how the client made itself known: none, password, certificate, gssapi, uid"`
	Command   []Command `yaml:"command" doc:"connect, bind, udp, and bind-reply, udp-reply for what comes back; the first three if absent"`
	To        []string  `yaml:"to" doc:"destinations: a name, .domain (and all below), a glob, a network, or set:NAME"`
	Port      []Ports   `yaml:"port" doc:"destination ports and ranges"`
	Days      []Days    `yaml:"days" doc:"weekdays: mon, or mon-fri"`
	Time      []Span    `yaml:"time" doc:"times of day, as 08:00-18:00"`
	Action    Action    `yaml:"action" doc:"allow or deny; allow if absent and via is given"`
	Via       string    `yaml:"via" doc:"name of the upstream to go through, or direct"`
	Source    *Source   `yaml:"source" doc:"go out directly from these addresses"`
	SendProxy int       `yaml:"send-proxy" doc:"begin the connection with a PROXY header of version 1 or 2"`
	Private   bool      `yaml:"private" doc:"lets clients from elsewhere reach private addresses by this rule"`
	Limits    *Limit    `yaml:"limits" doc:"for all sessions of this rule together"`
	Timeouts  Timeouts  `yaml:"timeouts" doc:"in place of the general ones"`
	Log       LogLevel  `yaml:"log" doc:"level of the sessions' lines: off, debug, info, warn, error"`
}

// Limits are on what sessions use. Each holds by itself.
type Limits struct {
	All    *Limit           `yaml:"all" doc:"all sessions together"`
	Client *Limit           `yaml:"client" doc:"each client address (each /64 of IPv6)"`
	User   *Limit           `yaml:"user" doc:"each user who is not named below"`
	Users  map[string]Limit `yaml:"users" doc:"single users"`
	Groups map[string]Limit `yaml:"groups" doc:"each user of a group, who is not named above; the first group in alphabetical order counts"`
}

// Limit is what the sessions of one subject may use together.
type Limit struct {
	Sessions    int       `yaml:"sessions" doc:"sessions at once"`
	Rate        Rate      `yaml:"rate" doc:"new sessions, as 10/s or 100/m"`
	Up          Bandwidth `yaml:"up" doc:"bandwidth from client to destination, as 10Mbit/s or 1MB/s"`
	Down        Bandwidth `yaml:"down" doc:"bandwidth from destination to client"`
	SessionUp   Bandwidth `yaml:"session-up" doc:"the same for each session"`
	SessionDown Bandwidth `yaml:"session-down" doc:"the same for each session"`
	Quota       Quota     `yaml:"quota" doc:"bytes both ways in a period, as 10GB/day; hour, day, week, month or total"`
}

// Timeouts bound how long things may take; 0 is the default, a negative time
// (written off) no bound.
type Timeouts struct {
	Handshake Duration `yaml:"handshake" doc:"until a client has said what it wants; 10s if absent; not in rules"`
	Dial      Duration `yaml:"dial" doc:"the way to the destination, name look-up included; 10s if absent"`
	Bind      Duration `yaml:"bind" doc:"until the peer of a BIND has come; 2m if absent"`
	Idle      Duration `yaml:"idle" doc:"a TCP session without a byte; 1h if absent"`
	UDPIdle   Duration `yaml:"udp-idle" doc:"a UDP mapping without a datagram; 60s if absent"`
	Session   Duration `yaml:"session" doc:"a session, whatever it does; no bound if absent"`
}

// Reload is what a new configuration does.
type Reload struct {
	Sessions ReloadSessions `yaml:"sessions" doc:"keep: live sessions stay; end-refused: those that the new rules would refuse end"`
}

// Test is a request and what must be decided about it.
type Test struct {
	From     netip.Addr   `yaml:"from" doc:"the client's address; 127.0.0.1 if absent"`
	User     string       `yaml:"user" doc:"who asks"`
	Auth     Auth         `yaml:"auth" doc:"how the client made itself known; a ticket or a password if there is a user, with an @ or not"`
	Listener string       `yaml:"listener" doc:"name of the listener"`
	Connect  string       `yaml:"connect" doc:"host:port to CONNECT to"`
	Bind     string       `yaml:"bind" doc:"host:port to BIND for"`
	UDP      string       `yaml:"udp" doc:"host:port to send a datagram to"`
	At       Moment       `yaml:"at" doc:"when, as 2026-11-23 09:30; now if absent"`
	Resolves []netip.Addr `yaml:"resolves" doc:"what the name means; nothing is looked up in tests"`
	Expect   string       `yaml:"expect" doc:"allow, deny, or via NAME"`
}
