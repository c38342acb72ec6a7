package keypolicy

import (
	"strconv"
	"strings"
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
	// arn is the only user or role that the subject can be, where it is known.
	arn string
	// anybody: the subject may be a principal or a service.
	anybody, service bool
	// administers: the question is not whether the subject may do too much, but
	// whether a principal of the account may do enough.
	administers bool
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
	case isService, secureTransport, grantForAWS, grantOperation, deletionGuard:
		return sure
	case callerAccount:
		if !s.service && (!s.anybody || s.account != "") {
			return sure // a service may have none
		}
	case callerARN:
		switch {
		case s.service:
			return absent
		case !s.anybody:
			return sure
		}
	case viaService, mfaAge:
		if s.bare {
			return absent
		}
	default: // the others come with some calls only
	}
	return perhaps
}

// has returns the chance that a key has the value in the subject's calls.
func (s *subject) has(c *condition, value string) chance {
	wild := c.test == wildcard && strings.ContainsAny(value, "*?")
	switch {
	case !c.suits(c.key):
		return open
	case wild && strings.Trim(value, "*") == "":
		return always
	case c.literal && isVariable(value) && c.key != chosen && c.key != contextPair:
		return never // nothing else is called like a variable
	case c.test == exact && c.key == callerARN && strings.ContainsAny(value, "*?"):
		return never // a wildcard is none here, and no ARN has such a character
	}
	switch c.key {
	case callerAccount, sourceAccount:
		return s.isOf(value, wild)
	case callerARN:
		switch {
		case s.arn == "" || isVariable(value):
			return s.callsAs(value, wild)
		case wild && matches(value, s.arn) || strings.EqualFold(value, s.arn):
			return always
		}
		return never
	case sourceARN:
		return s.actsFor(value, wild)
	case contextPair:
		switch {
		case s.service && isAccountID(value):
			return s.isOf(value, false)
		case s.service:
			return s.actsFor(value, wild)
		case s.bare && !isOpen(value):
			return unlikely
		}
	case organization:
		id, _, _ := strings.Cut(value, "/")
		if wild && value == "o-*" {
			return always
		}
		return s.owns(id == "${aws:ResourceOrgID}" || !isOpen(id))
	case possession:
		id, _, _ := strings.Cut(value, ":") // a role's id, before its session's name
		return s.owns(!isOpen(id))
	case network:
		return s.owns(c.test != wildcard && isNarrow(value))
	case isService:
		if s.anybody {
			// A stranger is no service, but may have one act.
			return min(max(truth(value, false), unlikely), likely)
		}
		return truth(value, s.service)
	case secureTransport:
		return truth(value, true)
	case mfa:
		if s.bare {
			return truth(value, false)
		}
	case grantForAWS:
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
	case chosen, viaService, mfaAge: // anybody may have any value
	}
	return open
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

// isOf returns the chance that an account is the subject's.
func (s *subject) isOf(account string, wild bool) chance {
	switch {
	case isVariable(account):
		return open
	case wild && s.account == "":
		return open
	case account == s.account, wild && matches(account, s.account):
		return always
	}
	return never
}

// callsAs returns the chance that an ARN is that of a principal of the subject's
// account.
func (s *subject) callsAs(arn string, wild bool) chance {
	if before, _, _ := strings.Cut(arn, "::"); wild && isOpen(before) {
		return open // it could reach over the account: paths of roles may hold colons
	}
	if s.administers && wild && strings.HasSuffix(arn, "::"+s.account+":*") {
		return always // but for federated users, on whom no account relies
	}
	return s.hasARN(accountNamed(arn, wild))
}

// actsFor returns the chance that a resource is one for which the subject can
// have a service act.
func (s *subject) actsFor(arn string, wild bool) chance {
	account, ok := accountNamed(arn, wild)
	if ok && account == "" {
		// A bucket's ARN has no account, and its name is one bucket's.
		name, _, _ := strings.Cut(arn, "/")
		return s.owns(!isOpen(name))
	}
	return s.hasARN(account, ok)
}

// hasARN returns the chance that an ARN of the account is the subject's.
func (s *subject) hasARN(account string, ok bool) chance {
	if !ok || account == s.account && account != "" {
		return open
	}
	return never
}

// accountNamed returns the account that a condition's ARN names: "" for none. It
// is not ok where more than one account may be meant.
func accountNamed(arn string, wild bool) (account string, ok bool) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 || !strings.EqualFold(parts[0], "arn") {
		return "", !wild && !isVariable(arn)
	}
	before := arn[:len(arn)-len(parts[5])]
	return parts[4], !isVariable(before) && (!wild || !isOpen(parts[4]))
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
