package ledger

import (
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/state"
)

// AccessDocuments is the folder of what access reviews found of keys. The documents are not
// part of those of the keys: a build that knows no reviews would take what they tell of for
// over.
const AccessDocuments = "access/"

// AccessName names the document of what reviews found of a key.
func AccessName(keyARN string) string {
	return AccessDocuments + state.Segment(arn.KeyID(keyARN)) + ".json"
}

// Access is access/<key-id>.json: by whom a key can be reached who is not meant to, by the
// account's IAM. The zero value is a key of which no review found anything.
type Access struct {
	Key     string   `json:"key"`
	Aliases []string `json:"aliases,omitempty"`
	// Standing has one danger for each kind of finding, which is its name.
	Standing Standing `json:"standing,omitzero"`
}

// Schema implements state.Document.
func (*Access) Schema() (string, int) { return "access", 1 }

// AccessReviewName names the document of the account's access reviews.
const AccessReviewName = "posture/access.json"

const (
	// AccessReviewEvery is how often it is reviewed who may use the keys.
	AccessReviewEvery = 24 * time.Hour
	// accessReviewLease is how long a worker counts as being at it after it last said so.
	accessReviewLease = 15 * time.Minute
	// MostPolicies bounds the policies about every key that are kept, and mostUnreviewed the
	// keys that are named as not reviewed.
	MostPolicies   = 100
	mostUnreviewed = 1000
)

// AccessReview is posture/access.json: the last review of who may use the account's keys,
// and the one that is under way. The zero value is an account that was never reviewed.
type AccessReview struct {
	// At is when the last whole review began, zero before the first one has ended: until
	// then what it finds is collected for one alert.
	At time.Time `json:"at,omitzero"`
	AccessReviewed
	// Begun is when the review that is under way began, zero for none. All keys up to Next,
	// by ARN, are done; Found is what came of them.
	Begun time.Time      `json:"begun,omitzero"`
	Next  string         `json:"next,omitempty"`
	Found AccessReviewed `json:"found,omitzero"`
	// By names who is at it, until Until.
	By    string    `json:"by,omitempty"`
	Until time.Time `json:"until,omitzero"`
	// Standing is whether the account's IAM can be read, and what people were told of that.
	Standing Standing `json:"standing,omitzero"`
}

// AccessReviewed is what a review came to.
type AccessReviewed struct {
	// Keys is how many keys it judged, and Unreviewed are the ids of those that could not be
	// read, with More beside the ones that are named.
	Keys       int      `json:"keys,omitempty"`
	Unreviewed []string `json:"unreviewed,omitempty"`
	More       int      `json:"more,omitempty"`
	// Policies are IAM policies about every key, the worst first, of PoliciesOf.
	Policies   []AccessPolicy `json:"policies,omitempty"`
	PoliciesOf int            `json:"policies_of,omitempty"`
}

// AccessPolicy is an IAM policy about every key.
type AccessPolicy struct {
	Severity finding.Severity `json:"severity"`
	Message  string           `json:"message"`
}

// Schema implements state.Document.
func (*AccessReview) Schema() (string, int) { return "access-review", 1 }

// Take takes the review for a worker: one that is due, or one that was left. False: it is
// not due, or another worker is at it.
func (r *AccessReview) Take(by string, now time.Time) bool {
	switch {
	case r.By != "" && r.By != by && now.Before(r.Until), r.Begun.IsZero() && now.Sub(r.At) < AccessReviewEvery:
		return false
	case r.Begun.IsZero():
		r.Begun, r.Next, r.Found = now, "", AccessReviewed{}
	}
	r.By, r.Until = by, now.Add(accessReviewLease)
	return true
}

// Renew notes how far the worker is that is at it, and what it found since, and reports
// false where another one is.
func (r *AccessReview) Renew(by, next string, since AccessReviewed, now time.Time) bool {
	if r.By != by {
		return false
	}
	r.Next, r.Until = next, now.Add(accessReviewLease)
	r.Found.Keys += since.Keys
	r.Found.More += since.More
	for _, id := range since.Unreviewed {
		if len(r.Found.Unreviewed) < mostUnreviewed {
			r.Found.Unreviewed = append(r.Found.Unreviewed, id)
		} else {
			r.Found.More++
		}
	}
	return true
}

// Leave notes that the worker is not at it any more. again: the review begins anew, since
// it could not read what it needs first.
func (r *AccessReview) Leave(by string, again bool) {
	if r.By != by {
		return
	}
	r.By, r.Until = "", time.Time{}
	if again {
		r.Begun, r.Next, r.Found = time.Time{}, "", AccessReviewed{}
	}
}

// Done notes that the review is whole.
func (r *AccessReview) Done(by string, policies []AccessPolicy, of int) {
	if r.By != by {
		return
	}
	r.At, r.AccessReviewed = r.Begun, r.Found
	r.Policies, r.PoliciesOf = policies, of
	r.Leave(by, true)
}
