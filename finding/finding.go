// Package finding defines what cmkeeper can find wrong: the severities, the kinds
// of findings with everything that follows from one ([Rule]), and [Finding] itself.
// It is pure and knows neither policies nor alerts.
package finding

import (
	"cmp"
	"slices"
	"strings"
)

// Severity of a finding or an alert.
type Severity string

// The severities, in rising order.
const (
	Info     Severity = "info"
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Severities returns all severities in rising order.
func Severities() []Severity { return []Severity{Info, Low, Medium, High, Critical} }

// AtLeast reports whether s is t or worse. A word that is not a severity counts as
// critical, so that a typing error never silences anything.
func (s Severity) AtLeast(t Severity) bool { return s.Rank() >= t.Rank() }

// Lower returns the next severity down, but never less than Low.
func (s Severity) Lower() Severity { return Severities()[max(1, s.Rank()-1)] }

// Rank returns 0 for Info to 4 for Critical, and for words that are not severities.
func (s Severity) Rank() int {
	if i := slices.Index(Severities(), s); i >= 0 {
		return i
	}
	return len(Severities()) - 1
}

// Finding is one thing that is wrong. Its texts may hold parts of a policy as they
// are: escape them before they are shown.
type Finding struct {
	// ID names the rule.
	ID       ID       `json:"id"`
	Severity Severity `json:"severity"`
	// Statement is the policy statement's Sid, or "#n" (from 1) where it has none; ""
	// for a finding about something else.
	Statement string `json:"statement,omitempty"`
	// Principal is whom it is about: an ARN, an account id, a service, "*" or "".
	Principal string `json:"principal,omitempty"`
	// Message is one sentence.
	Message string `json:"message"`

	// Bound: the finding is about everyone, but a condition keeps out those who are not
	// in an organization or network, or are no AWS service. It decides before an alert
	// is published and is no part of it.
	Bound bool `json:"-"`
	// Access is what the principal may do with the key. It decides before an alert is
	// published and is no part of it. Zero is not known.
	Access Access `json:"-"`
}

// Exposes reports whether the finding says that the key is open to everyone, or to
// an account that is not trusted, for more than reading its settings. A finding that
// is Bound does not count, nor does one below high (use through a service alone).
func (f Finding) Exposes() bool {
	return f.ID.Rule().Effect&Exposes != 0 && !f.Bound && f.Severity.AtLeast(High) && f.Access != Metadata
}

// Fixed reports whether nothing lowers the severity of an alert with the finding,
// neither a pipeline nor a sandbox.
func (f Finding) Fixed() bool { return f.ID.Rule().Effect&Fixed != 0 || f.Exposes() }

// WorstFirst sorts findings by their severity and returns them. Findings of one
// severity keep their order.
func WorstFirst(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int { return cmp.Compare(b.Severity.Rank(), a.Severity.Rank()) })
	return findings
}

// Risk says what is at risk because of the findings: a sentence for each kind, in
// their order, about what is granted to whom. It is "" without findings.
func Risk(findings []Finding) string {
	type kind struct {
		ID
		bound bool
	}
	var order []kind
	granted := map[kind]Access{}
	var all Access
	grants := false
	for _, f := range findings {
		k := kind{f.ID, f.Bound}
		if !slices.Contains(order, k) {
			order = append(order, k)
		}
		access := f.Access
		if f.ID.Rule().grants() {
			grants = true
			access = cmp.Or(access, everything)
		}
		granted[k] |= access
		all |= access
	}
	var sentences []string
	for _, k := range order {
		who := granted[k].String()
		if k.bound {
			who += " if they meet the statement's conditions"
		}
		sentences = append(sentences, strings.ReplaceAll(k.Rule().Risk, accessMark, who))
	}
	if grants && all&(Read|Grant|Administer|Other) == 0 {
		sentences = append(sentences, "This does not let them read what is encrypted under the key.")
	}
	return strings.Join(sentences, " ")
}
