package keypolicy

import (
	"slices"
	"strconv"
	"strings"
)

// chance is how likely it is that something holds for the calls that a subject
// can make. The middle is the subject's own choice, or what cannot be told.
type chance uint8

const (
	never    chance = iota
	unlikely        // a stranger cannot bring it about
	open
	likely // a stranger cannot avoid it
	always
)

func (c chance) not() chance { return always - c }

// either returns the chance where one of two may come to pass: what they agree
// on, or open.
func either(a, b chance) chance {
	switch {
	case a < open && b < open:
		return max(a, b)
	case a > open && b > open:
		return min(a, b)
	}
	return open
}

// condition is a Condition taken apart.
type condition struct {
	test
	negated, ifExists, forAll, forAny bool

	key    keyKind
	values []string
	// carried are the actions whose requests carry the key; the others never do.
	carried actions
}

// test is what a condition operator does with the key's value.
type test uint8

const (
	unknownTest test = iota
	exact            // StringEquals
	pattern          // StringLike, ArnLike and ArnEquals, with wildcards
	address          // IpAddress
	boolean
	null
	atLeast // NumericGreaterThan and such
	atMost
	other // what is known and cannot be told: dates, numbers, binary
)

var tests = map[string]test{
	"stringequals": exact, "stringequalsignorecase": exact, "stringlike": pattern,
	"arnequals": pattern, "arnlike": pattern, "ipaddress": address,
	"bool": boolean, "null": null,
	"numericgreaterthan": atLeast, "numericgreaterthanequals": atLeast,
	"numericlessthan": atMost, "numericlessthanequals": atMost,
	"numericequals": other, "binaryequals": other, "dateequals": other,
	"dategreaterthan": other, "dategreaterthanequals": other, "datelessthan": other, "datelessthanequals": other,
}

// reads reports whether what the test says of such a key is understood. Nobody
// knows whose account number is less than another.
func (t test) reads(k keyKind) bool {
	switch t {
	case boolean:
		return k == isService || k == secureTransport || k == mfa || k == grantForAWS
	case address:
		return k == network
	case atLeast, atMost:
		return k == deletionGuard
	}
	return t == exact || t == pattern
}

// keyKind is what a condition key tells of a call.
type keyKind uint8

const (
	chosen          keyKind = iota // the caller can choose it, or it is not known
	callerAccount                  // the account of the caller
	callerARN                      // the user or role of the caller
	sourceAccount                  // the account for which a service acts
	sourceARN                      // the resource for which a service acts
	context                        // encryption context, where services name that resource
	organization                   // an organization, of the caller or of what it acts for
	possession                     // a network, or an id, that only its owner has
	network                        // addresses
	isService                      // whether an AWS service calls of itself
	viaService                     // through which service the call comes
	secureTransport                // whether TLS is used, as it always is
	resourceAccount                // the account of the key
	mfa
	mfaAge
	grantForAWS    // whether an AWS service makes the grant
	grantBound     // what a grant gives, and to whom
	grantOperation // the same, and always said
	deletionGuard  // what delays or forbids a deletion
)

var kinds = map[string]keyKind{
	"kms:calleraccount": callerAccount, "aws:principalaccount": callerAccount, "aws:principalarn": callerARN,
	"aws:sourceaccount": sourceAccount, "aws:sourcearn": sourceARN,
	"aws:principalorgid": organization, "aws:principalorgpaths": organization,
	"aws:sourceorgid": organization, "aws:sourceorgpaths": organization,
	"aws:sourcevpc": possession, "aws:sourcevpce": possession, "aws:vpceaccount": possession, "aws:vpceorgid": possession,
	// Not aws:VpcSourceIp: everybody numbers their own networks.
	"aws:sourceip": network, "aws:userid": possession,
	"aws:principalisawsservice": isService, "kms:viaservice": viaService,
	"aws:securetransport": secureTransport, "aws:resourceaccount": resourceAccount,
	"aws:multifactorauthpresent": mfa, "aws:multifactorauthage": mfaAge,
	"kms:grantisforawsresource": grantForAWS, "kms:grantoperations": grantOperation,
	"kms:granteeprincipal": grantBound, "kms:granteeserviceprincipal": grantBound, "kms:grantconstrainttype": grantBound,
	"kms:schedulekeydeletionpendingwindowindays": deletionGuard, "kms:trailingdayswithoutkeyusage": deletionGuard,
}

// carriers are the actions whose requests carry a key, for those keys where that
// makes a difference (KMS developer guide, "AWS KMS condition keys"). PutKeyPolicy
// has no service in between and no source.
var carriers = map[string]actions{
	"kms:grantisforawsresource": grants, "kms:grantoperations": createGrant, "kms:granteeprincipal": createGrant,
	"kms:granteeserviceprincipal": createGrant, "kms:grantconstrainttype": createGrant, "kms:retiringprincipal": createGrant,
	"kms:encryptioncontextkeys": contextual,
	"kms:viaservice":            allKnown &^ putKeyPolicy,
	"aws:sourceaccount":         allKnown &^ putKeyPolicy, "aws:sourcearn": allKnown &^ putKeyPolicy,
	"aws:sourceorgid": allKnown &^ putKeyPolicy, "aws:sourceorgpaths": allKnown &^ putKeyPolicy,
	"kms:schedulekeydeletionpendingwindowindays": set("kms:ScheduleKeyDeletion"), "kms:trailingdayswithoutkeyusage": shutdown,
	"kms:encryptionalgorithm": use, "kms:signingalgorithm": use, "kms:macalgorithm": use, "kms:messagetype": use,
	"kms:reencryptonsamekey": use, "kms:datakeypairspec": use, "kms:keyagreementalgorithm": use,
	"kms:validto": set("kms:ImportKeyMaterial"), "kms:expirationmodel": set("kms:ImportKeyMaterial"),
	"kms:primaryregion": set("kms:UpdatePrimaryRegion"), "kms:replicaregion": set("kms:ReplicateKey"),
	"kms:rotationperiodindays": set("kms:EnableKeyRotation"),
}

// contextual are the actions whose requests may have an encryption context.
var contextual = use | createGrant | set("kms:RetireGrant")

// takeApart prepares conditions for keys of the account.
func takeApart(conditions []Condition, account string) []condition {
	if len(conditions) == 0 {
		return nil
	}
	list := make([]condition, len(conditions))
	for i, c := range conditions {
		list[i] = c.takeApart(account)
	}
	return list
}

func (c Condition) takeApart(account string) condition {
	name := strings.ToLower(c.Operator)
	out := condition{values: c.Values, carried: ^actions(0)}
	name, out.forAll = strings.CutPrefix(name, "forallvalues:")
	name, out.forAny = strings.CutPrefix(name, "foranyvalue:")
	name, out.ifExists = strings.CutSuffix(name, "ifexists")
	if before, after, found := strings.Cut(name, "not"); found {
		name, out.negated = before+after, true
	}
	out.test = tests[name]
	key := conditionKey(c.Key)
	out.key = kinds[key]
	if as, ok := carriers[key]; ok {
		out.carried = as | unheardOf
	}
	if strings.HasPrefix(key, "kms:encryptioncontext:") {
		out.key, out.carried = context, contextual|unheardOf
	}
	if strings.HasPrefix(key, "kms:recipientattestation:") {
		out.carried = use | unheardOf
	}
	// The key's own account is the only variable whose value is known.
	const variable = "${aws:ResourceAccount}"
	if slices.ContainsFunc(c.Values, func(v string) bool { return strings.Contains(v, variable) }) {
		out.values = slices.Clone(c.Values)
		for i := range out.values {
			out.values[i] = strings.ReplaceAll(out.values[i], variable, account)
		}
	}
	return out
}

// demands reports whether the condition holds only where the key is there and
// has one of the values.
func (c *condition) demands() bool { return !c.negated && !c.ifExists && !c.forAll }

// namesServices reports whether the condition lets through only what comes
// through services that it names.
func (c *condition) namesServices() bool {
	return c.key == viaService && c.demands() && (c.test == exact || c.test == pattern) && len(c.values) > 0 &&
		!slices.ContainsFunc(c.values, func(v string) bool {
			service, _, _ := strings.Cut(v, ".")
			return service == "" || isOpen(service)
		})
}

// isForAWSGrants reports whether the condition lets through only grants that AWS
// services make.
func (c *condition) isForAWSGrants() bool {
	return c.key == grantForAWS && c.demands() && c.test == boolean && len(c.values) > 0 &&
		!slices.ContainsFunc(c.values, func(v string) bool { return !strings.EqualFold(v, "true") })
}

// holds returns the chance that the condition holds for the subject's calls:
// for those that carry the key, and for the others.
func (c *condition) holds(s *subject) (carried, others chance) {
	if c.test == unknownTest {
		return open, open // it is not understood
	}
	if c.test == null {
		// "true" asks for the key to be missing.
		carried, others = never, always
		if len(c.values) != 1 || !strings.EqualFold(c.values[0], "true") {
			carried, others = always, never
		}
		return s.presence(c.key).choose(carried, others), others
	}
	present := never
	if len(c.values) == 0 {
		present = open // nothing to rely on
	}
	for _, v := range c.values {
		present = max(present, s.has(c, v))
	}
	if c.negated {
		present = present.not()
	}
	presence := s.presence(c.key)
	if presence == sure && (c.ifExists || c.forAll || c.forAny) && !s.administers && c.key != grantOperation && c.key != deletionGuard {
		presence = perhaps // so its author says
	}
	return presence.choose(present, c.missing()), c.missing()
}

// missing returns the chance that the condition holds where the key is missing.
func (c *condition) missing() chance {
	switch {
	case c.forAny && c.ifExists:
		return open // not documented
	case c.forAll || c.ifExists || c.negated && !c.forAny:
		return always
	}
	return never
}

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
	}
	return either(present, missing)
}

// subject is whoever may call, as far as conditions can tell.
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
	// administers: the question is not whether somebody may do too much, but
	// whether one of the account may do enough.
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
	case isService, secureTransport, resourceAccount, grantForAWS, grantOperation, deletionGuard:
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
	}
	return perhaps
}

// has returns the chance that a key has the value in the subject's calls.
func (s *subject) has(c *condition, value string) chance {
	wild := c.test == pattern && strings.ContainsAny(value, "*?")
	switch {
	case !c.reads(c.key):
		return open
	case wild && strings.Trim(value, "*") == "":
		return always
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
	case context:
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
		return s.owns(c.test != pattern && isNarrow(value))
	case isService:
		if s.anybody {
			// A stranger is no service, but may have one act.
			return min(max(truth(value, false), unlikely), likely)
		}
		return truth(value, s.service)
	case secureTransport:
		return truth(value, true)
	case resourceAccount:
		return open
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

// owns returns the chance for something that only its owner has, if it is told
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

// isNarrow reports whether a range of addresses is one that somebody can own:
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
