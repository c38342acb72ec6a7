package keypolicy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// presence is whether a call carries a key.
type presence uint8

const (
	perhaps presence = iota
	absent
	sure
)

func (p presence) choose(present, missing chance) chance {
	switch p {
	case absent:
		return missing
	case sure:
		return present
	default:
		return either(present, missing)
	}
}

// subject is a possible caller, as far as conditions distinguish it.
type subject struct {
	// who is named by the policy; "*" for a stranger.
	who Principal
	// account is the subject's, or that for which a service acts; "" is that of
	// a stranger, whom the policy does not name.
	account string
	// org is the organization that the subject is a member of, or for which a service
	// acts, where that is all that is known of it.
	org string
	// arn is the only user or role that the subject can be, where it is known.
	arn string
	// anybody: the subject may be a principal or a service.
	anybody, service bool
	// administers: the question is not whether the subject may do too much, but
	// whether a principal of the account may do enough.
	administers bool
	// delegate: the subject is no account's root.
	delegate bool
	// insider: the subject may be in the networks and organizations that
	// conditions name.
	insider bool
	// bare: the call comes without MFA and not through a service; it makes a
	// grant of anything to anybody, or deletes as soon as can be.
	bare bool
}

// subjectOf returns the subject that a policy names.
func subjectOf(who Principal) subject {
	s := subject{who: who, account: who.account(), service: who.Type == "Service"}
	if who.Type == "AWS" && (strings.Contains(who.ID, ":user/") || strings.Contains(who.ID, ":role/") || strings.Contains(who.ID, ":federated-user/")) {
		s.arn = who.ID
	}
	return s
}

// presence returns whether the subject's calls carry a key of the kind.
func (s *subject) presence(k keyKind) presence {
	switch k {
	case isService, secureTransport, grantForAWS, grantOperation, deletionGuard, resourceAccount, date, epoch:
		return sure
	case unseen:
		return absent
	case callerAccount:
		if !s.service && !s.anybody {
			return sure // a service that acts for the account may have none
		}
	case callerARN, callerType, userID:
		switch {
		case s.service:
			return absent
		case !s.anybody:
			return sure
		}
	case serviceName, serviceNames:
		switch {
		case s.service:
			return sure
		case !s.anybody:
			return absent
		}
	case sourceAccount, sourceARN, sourceOrganization:
		if !s.service && !s.anybody {
			return absent
		}
	case credentialARN, organization, possession, endpointAccount:
		if s.service {
			return absent // it is in nobody's organization or network
		}
	case viaService:
		if s.bare || s.administers {
			// None of the services that have the key is known to change a policy.
			return absent
		}
	case calledVia, mfaAge:
		if s.bare {
			return absent
		}
	default: // the others come with some calls only
	}
	return perhaps
}

// has returns the chance that a key has the value in the subject's calls.
func (s *subject) has(c *condition, value string) chance {
	if s.account != "" && !s.service && !c.literal {
		value = strings.ReplaceAll(value, "${aws:PrincipalAccount}", s.account)
	}
	wild := c.test >= wildcard && c.test <= arnLike && strings.ContainsAny(value, "*?")
	switch {
	case !c.suits(c.kind):
		return open
	case wild && strings.Trim(value, "*") == "":
		if c.test == arnLike {
			return open // it is no ARN, and what AWS makes of it is not documented
		}
		return always
	case !isVariable(value) && !wild && strings.ContainsAny(value, "*?") && c.kind.isName():
		return never // no such name has a wildcard in it
	case !isVariable(value):
		return s.hasValue(c, value, wild)
	case c.literal && c.kind != chosen && c.kind != contextPair:
		return never // nothing else is called like a variable
	}
	switch {
	case c.kind == resourceAccount && value == "${aws:PrincipalAccount}":
		if s.service {
			return never // it has no such key
		}
		return s.isOf(c.against.Account, false)
	case c.kind == resourceOrganization && value == "${aws:PrincipalOrgID}", (c.kind == organization || c.kind == sourceOrganization) && value == "${aws:ResourceOrgID}":
		return s.belongs(c, "")
	case c.kind == callerAccount || c.kind == sourceAccount || c.kind == organization || c.kind == sourceOrganization:
		return open
	}
	// What a variable stands for may be anything.
	return min(s.hasValue(c, variable().ReplaceAllString(value, "*"), true), open)
}

var variable = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$\{[^}]*\}`) })

// hasValue is has for a value without variables; wild: it has wildcards that count.
func (s *subject) hasValue(c *condition, value string, wild bool) chance {
	switch c.kind {
	case callerAccount, sourceAccount:
		return s.isOf(value, wild)
	case resourceAccount:
		return certain(value == c.against.Account || wild && like(value, c.against.Account, false))
	case callerARN:
		return s.callsAs(c, value, wild)
	case callerType:
		return s.isA(value, wild, c.test == folded)
	case userID:
		id, _, _ := strings.Cut(value, ":") // a role's id, before its session's name
		switch {
		case !isAccountID(id):
			return s.owns(!isOpen(id))
		case s.delegate || s.arn != "":
			return never // it is the root's
		}
		return min(s.isOf(id, false), open)
	case sourceARN, credentialARN:
		return s.actsFor(c, value, wild)
	case contextPair:
		switch {
		case s.service && isAccountID(value):
			return s.isOf(value, false)
		case s.service && !strings.HasPrefix(value, "arn:"):
			return open // a name that every account may give
		case s.service:
			return s.actsFor(c, value, wild)
		case s.bare && !isOpen(value):
			return unlikely
		}
	case endpointAccount:
		if account := arnAccount(value); account != "" {
			value = account
		}
		if s.account != "" && (value == s.account || wild && like(value, s.account, false)) {
			return open
		}
		return s.owns(!isOpen(value))
	case organization, sourceOrganization:
		if wild && value == "o-*" {
			return always
		}
		return s.belongs(c, value)
	case possession:
		if wild && value == "o-*" {
			return always
		}
		id, _, _ := strings.Cut(value, "/") // an organization, before its units
		return s.owns(!isOpen(id))
	case network:
		return s.owns(c.test != wildcard && isNarrow(value))
	case isService:
		if s.anybody {
			// A stranger is no service, but may have one act.
			return min(max(truth(value, false), unlikely), likely)
		}
		return truth(value, s.service)
	case serviceName, serviceNames:
		is := value == s.who.ID || wild && like(value, s.who.ID, false) || c.test == folded && strings.EqualFold(value, s.who.ID)
		service, _, _ := strings.Cut(s.who.ID, ".")
		// It may have others, such as those of its Regions.
		others := c.kind == serviceNames || !is && strings.HasPrefix(value, service+".")
		switch {
		case s.anybody:
			return unlikely
		case !is && !others:
			return never
		case is && (!others || c.forAll == c.negated):
			return always
		}
	case date, epoch:
		return c.isTime(value)
	case secureTransport:
		return truth(value, true)
	case mfa, grantForAWS:
		if s.bare {
			return truth(value, false)
		}
	case grantBound, grantOperation:
		if s.bare && !isOpen(value) {
			return unlikely
		}
	case deletionGuard:
		switch {
		case !s.bare:
		case c.test == atLeast:
			return unlikely
		case c.test == atMost:
			return likely
		}
	case chosen, flag, viaService, calledVia, mfaAge, resourceOrganization, unseen: // anybody may have any value
	}
	return open
}

// certain returns always or never.
func certain(is bool) chance {
	if is {
		return always
	}
	return never
}

// truth returns the chance that a boolean key which has the truth has the value.
func truth(value string, is bool) chance {
	switch {
	case strings.EqualFold(value, strconv.FormatBool(is)):
		return always
	case strings.EqualFold(value, strconv.FormatBool(!is)):
		return never
	}
	return open
}

// owns returns the chance for something that only its owner has, if it is named
// precisely.
func (s *subject) owns(precise bool) chance {
	if precise && !s.insider {
		return unlikely
	}
	return open
}

// belongs returns the chance that the subject is in an organization, or in one of its
// units; "" is the organization of the key.
func (s *subject) belongs(c *condition, organization string) chance {
	id, _, _ := strings.Cut(organization, "/")
	trusted := slices.Contains(c.against.TrustedOrgs, id) || organization == "" && len(c.against.TrustedOrgs) > 0
	switch {
	case isOpen(id), s.insider, s.org != "" && s.org == id:
		return open
	case !trusted:
		return unlikely
	case s.org != "":
		if organization == "" && slices.Contains(c.against.TrustedOrgs, s.org) {
			return open
		}
		return never
	case c.against.trusts(s.account):
		return open
	}
	return never // a member is no stranger
}

// isTime returns the chance that the time is the value, before it or after it, from
// now on.
func (c *condition) isTime(value string) chance {
	t, ok := parseTime(value)
	if _, err := strconv.ParseInt(value, 10, 64); err != nil && c.test >= equalNumber && c.test <= atMost {
		ok = false
	}
	now := c.against.Now
	switch {
	case !ok || now.IsZero() || !now.After(t):
		return open
	case c.test == after || c.test == atLeast:
		return always
	}
	return never
}

func parseTime(value string) (time.Time, bool) {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Unix(n, 0), true
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, value); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// isOf returns the chance that an account is the subject's.
func (s *subject) isOf(account string, wild bool) chance {
	switch {
	case s.account != "":
		return certain(account == s.account || wild && like(account, s.account, false))
	case wild && strings.Trim(account, "*?0123456789") == "":
		return open
	}
	return never
}

// callerTypes are the values of aws:PrincipalType for those who can call KMS.
var callerTypes = []string{"Account", "User", "AssumedRole", "FederatedUser"}

// isA returns the chance that a type of caller is the subject's.
func (s *subject) isA(kind string, wild, fold bool) chance {
	types := callerTypes
	switch {
	case strings.Contains(s.arn, ":user/"):
		types = callerTypes[1:2]
	case strings.Contains(s.arn, ":role/"):
		types = callerTypes[2:3]
	case s.arn != "":
		types = callerTypes[3:]
	case s.delegate && s.administers:
		types = callerTypes[1:3]
	case s.delegate:
		types = callerTypes[1:]
	case s.administers:
		types = callerTypes[:3] // no account relies on a federated user
	}
	fits := 0
	for _, t := range types {
		if kind == t || wild && like(kind, t, false) || fold && strings.EqualFold(kind, t) {
			fits++
		}
	}
	switch fits {
	case 0:
		return never
	case len(types):
		return always
	}
	return open
}

// callsAs returns the chance that an ARN is the subject's in aws:PrincipalArn. For a
// session of a role that is the role's.
func (s *subject) callsAs(c *condition, arn string, wild bool) chance {
	switch {
	case s.arn != "":
		return certain(c.sameARN(arn, s.arn, wild))
	case !wild && strings.ContainsAny(arn, "*?"):
		return never // a wildcard is none here, and no ARN has such a character
	}
	patterns := [1]string{arn}
	parts := patterns[:]
	if c.test == arnLike {
		if parts = strings.SplitN(arn, ":", 6); len(parts) < 6 {
			return never
		}
	}
	for _, partition := range c.against.partitions() {
		// Federated users are none on whom an account relies.
		if s.administers && wild && strings.HasSuffix(arn, ":*") && c.sameARN(arn, "arn:"+partition+":iam::"+s.account+":*", wild) {
			return always
		}
		for _, form := range callerForms()[partition] {
			if s.delegate && form.root || s.administers && form.parts[2] == "sts" {
				continue
			}
			if form.mayBe(c.test, parts, s.account, wild) {
				return open
			}
		}
	}
	return never
}

// callerForm is how the ARNs of some of those who call begin: as parts, and as a text.
// The account is #.
type callerForm struct {
	parts [6]string
	text  string
	root  bool
}

const anAccount = "############"

// callerForms are the forms of each partition.
var callerForms = sync.OnceValue(func() map[string][]callerForm {
	m := map[string][]callerForm{}
	for _, partition := range allPartitions {
		for _, form := range [...]struct{ service, end string }{{"iam", "role/"}, {"iam", "user/"}, {"iam", "roo"}, {"sts", "federated-user/"}} {
			parts := [6]string{"arn", partition, form.service, "", anAccount, form.end}
			m[partition] = append(m[partition], callerForm{parts, strings.Join(parts[:], ":"), form.end == "roo"})
		}
	}
	return m
})

// sameARN reports whether an ARN is the condition's value.
func (c *condition) sameARN(value, arn string, wild bool) bool {
	switch {
	case c.test == folded:
		return strings.EqualFold(value, arn)
	case c.test == arnLike:
		patterns, parts := strings.SplitN(value, ":", 6), strings.SplitN(arn, ":", 6)
		return slices.EqualFunc(patterns, parts, func(pattern, part string) bool { return like(pattern, part, false) })
	case wild:
		return like(value, arn, false)
	}
	return value == arn
}

// mayBe reports whether a condition's value can stand for an ARN of the form: patterns
// are its parts for ArnLike, else it as a whole. Without an account it is a stranger's;
// a value that leaves no choice of the digits names an account, and so no stranger's.
func (f *callerForm) mayBe(t test, patterns []string, account string, wild bool) bool {
	if t != arnLike {
		return begins(patterns[0], f.text, account, wild, t == folded)
	}
	for i, pattern := range patterns[:4] {
		if !like(pattern, f.parts[i], false) {
			return false
		}
	}
	of := subject{account: account}
	return of.isOf(patterns[4], strings.ContainsAny(patterns[4], "*?")) != never && begins(patterns[5], f.parts[5], account, true, false)
}

// begins reports whether a pattern can match something longer that begins with the
// text, in which # are the digits of the account, or of any that the pattern does not
// name where that is "".
func begins(pattern, text, account string, wild, fold bool) bool {
	choice := account != "" || !strings.Contains(text, "#")
	digit := 0
	for i := range len(text) {
		want := text[i]
		if want == '#' && account != "" {
			want = account[digit%len(account)]
			digit++
		}
		switch {
		case i == len(pattern):
			return false
		case wild && pattern[i] == '*':
			return choice || strings.Contains(text[i:], "#")
		case wild && pattern[i] == '?':
			choice = choice || want == '#'
		case want == '#' && '0' <= pattern[i] && pattern[i] <= '9':
		case pattern[i] != want && (!fold || lower(pattern[i]) != want):
			return false
		}
	}
	return choice && len(pattern) > len(text)
}

// actsFor returns the chance that a resource is one for which the subject can
// have a service act, or with whose credentials it can call. That under StringLike a star
// could reach over the account into a resource's name does not count: no resource for
// which services call KMS is known to be called so, and AWS's own policies rely on it.
func (s *subject) actsFor(c *condition, arn string, wild bool) chance {
	parts := strings.SplitN(arn, ":", 6)
	switch {
	case !wild && strings.ContainsAny(strings.Join(parts[:min(5, len(parts))], ""), "*?"):
		return never // a wildcard is none here, and only a resource's name can have such a character
	case wild && (len(parts) < 6 || isOpen(parts[4])):
		if c.test == arnLike && len(parts) < 6 {
			return never
		}
		return open
	case len(parts) < 6:
		return s.owns(true)
	case c.test != folded && !isOpen(parts[0]+parts[1]) && (parts[0] != "arn" || !slices.Contains(c.against.partitions(), parts[1])):
		return never
	case parts[4] == "":
		// A bucket's ARN has no account, and its name is one bucket's.
		name, _, _ := strings.Cut(parts[5], "/")
		return s.owns(!isOpen(name))
	case parts[4] == s.account:
		return open
	}
	return never
}

// isVariable reports whether a value has a policy variable.
func isVariable(value string) bool { return strings.Contains(value, "${") }

// isOpen reports whether a value may stand for one that a stranger has.
func isOpen(value string) bool { return strings.ContainsAny(value, "*?$") }

// isNarrow reports whether a range of addresses can have an owner:
// half of the internet is not.
func isNarrow(addresses string) bool {
	address, length, found := strings.Cut(addresses, "/")
	if !found {
		return !isOpen(address)
	}
	n, err := strconv.Atoi(length)
	least := 8
	if strings.Contains(address, ":") {
		least = 16
	}
	return err == nil && n >= least
}
