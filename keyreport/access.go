package keyreport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/state"
)

// Access is what the fleet's last access review came to: who can come to the keys by the
// account's IAM who is not meant to.
type Access struct {
	// At is when the last whole review read IAM; zero where there was none. Keys is how many
	// keys it judged.
	At   time.Time `json:"at,omitzero"`
	Keys int       `json:"keys"`
	// Found are the keys that somebody can come to, the worst first.
	Found []*AccessFound `json:"found"`
	// NotReviewed are the ids of keys that the review could not read, or that were created
	// later, and NotNamed is how many more it could not read.
	NotReviewed []string `json:"not_reviewed"`
	NotNamed    int      `json:"not_named,omitempty"`
	// Policies are IAM policies about every key, the worst first, of PoliciesOf.
	Policies   []AccessPolicy `json:"policies"`
	PoliciesOf int            `json:"policies_of"`
	NotKnown   string         `json:"not_known,omitempty"`

	unread []string // ids
}

// AccessFound is what the review found of a key: findings of one kind.
type AccessFound struct {
	Key     string   `json:"key"`
	Aliases []string `json:"aliases,omitempty"`
	// Kind is the finding's id, Count how many there are of it, and Worst the severity of the
	// worst, in the key's context.
	Kind  string           `json:"kind"`
	Count int              `json:"count"`
	Worst finding.Severity `json:"worst"`
	Since time.Time        `json:"since"`
	// Exempt: an exemption covered it when it was last judged.
	Exempt bool `json:"exempt,omitempty"`
}

// AccessPolicy is an IAM policy about every key.
type AccessPolicy struct {
	Severity finding.Severity `json:"severity"`
	Message  string           `json:"message"`
}

func emptyAccess() Access {
	return Access{Found: []*AccessFound{}, NotReviewed: []string{}, Policies: []AccessPolicy{}}
}

// readAccess reads the last access review.
func readAccess(ctx context.Context, store *state.Store) Access {
	a := emptyAccess()
	var doc ledger.AccessReview
	switch _, err := store.Get(ctx, ledger.AccessReviewName, &doc); {
	case errors.Is(err, state.ErrNotFound) || err == nil && doc.At.IsZero():
		a.NotKnown = "no access review has ended (CMKEEPER_ACCESS_REVIEW)"
		return a
	case err != nil:
		a.NotKnown = err.Error()
		return a
	}
	a.At, a.Keys, a.unread, a.NotNamed, a.PoliciesOf = doc.At, doc.Keys, doc.Unreviewed, doc.More, doc.PoliciesOf
	for _, p := range doc.Policies {
		a.Policies = append(a.Policies, AccessPolicy(p))
	}
	err := documents(ctx, store, ledger.AccessDocuments, func(k *ledger.Access) {
		for _, o := range k.Standing.Open {
			if o.Gone.IsZero() {
				a.Found = append(a.Found, &AccessFound{Key: k.Key, Aliases: k.Aliases, Kind: o.Name, Count: o.Count, Worst: o.Severity, Since: o.Since, Exempt: o.Exempt})
			}
		}
	})
	if err != nil {
		a.NotKnown = err.Error()
	}
	return a
}

// of is what the review came to of the keys that are there.
func (a Access) of(list keylist.List) Access {
	there, unread := map[string]bool{}, map[string]bool{}
	for _, id := range a.unread {
		unread[id] = true
	}
	for _, k := range list.Keys {
		there[k.ARN] = true
		if k.Manager != "AWS" && !a.At.IsZero() && (unread[k.ID] || k.Created.After(a.At)) {
			a.NotReviewed = append(a.NotReviewed, k.ID)
		}
	}
	a.Found = slices.DeleteFunc(a.Found, func(f *AccessFound) bool { return !there[f.Key] })
	slices.SortFunc(a.Found, func(x, y *AccessFound) int {
		return cmp.Or(y.Worst.Rank()-x.Worst.Rank(), strings.Compare(x.Key, y.Key), strings.Compare(x.Kind, y.Kind))
	})
	return a
}

// access is the section about the review.
func (r Report) access() node {
	a := r.History.Access
	about := "When IAM was last read is not known: " + a.NotKnown + ". No key was reviewed."
	if !a.At.IsZero() {
		about = fmt.Sprintf("The last access review read the account's IAM at %s, and judged %d keys. It shows who can come to a key by IAM beside its policy and grants; service control policies are not seen. A key that is not in the table has no finding of severity high or above.", stamp(a.At), a.Keys)
		if a.NotKnown != "" {
			about += " Not all is known: " + a.NotKnown
		}
	}
	var found, policies [][]node
	for _, f := range a.Found {
		exempt := "no"
		if f.Exempt {
			exempt = "yes"
		}
		found = append(found, []node{short(string(f.Worst)), r.keyCell(f.Key, strings.Join(f.Aliases, ", ")), cell(f.Kind), number(f.Count), cell(stamp(f.Since)), short(exempt)})
	}
	for _, id := range a.NotReviewed {
		found = append(found, []node{short("?"), r.keyCell("key/"+id, ""), cell("not reviewed"), cell("-"), cell("-"), short("-")})
	}
	for _, p := range a.Policies {
		policies = append(policies, []node{short(string(p.Severity)), cell(p.Message)})
	}
	if a.At.IsZero() {
		return part("access", "Who can come to the keys", words("p", about))
	}
	more := ""
	if a.NotNamed > 0 {
		more = fmt.Sprintf("%d more keys could not be read, and are not named.", a.NotNamed)
	}
	none := "Nothing of severity high or above was found."
	return part("access", "Who can come to the keys", words("p", about),
		table(none, []string{"worst", "key", "what", "how many", "first seen", "exempt"}, found), words("p", more),
		words("h3", fmt.Sprintf("IAM policies about every key (%d)", a.PoliciesOf)), table("There are none.", []string{"severity", "what"}, policies))
}
