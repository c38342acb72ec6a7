package retire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/state"
)

// Approval is the record that a key may be deleted, or disabled, retirements/<key-id>.json.
type Approval struct {
	Key string `json:"key"`
	// By is the ARN of the caller who scheduled the deletion, At when.
	By string    `json:"by"`
	At time.Time `json:"at"`
	// Days is the waiting period; 0 for a key that is disabled and not deleted.
	Days int `json:"days"`
	// Accepted are the IDs of the unknowns that the caller accepted.
	Accepted []string `json:"accepted,omitempty"`
	// Buckets say how the account's buckets were checked.
	Buckets []Bucket `json:"buckets,omitempty"`
}

// Schema names the document for package state.
func (*Approval) Schema() (string, int) { return "retirement", 1 }

// CoversDisabling reports whether a key that was disabled at the given time, or a little
// before, was disabled with this approval, by Disable.
func (a Approval) CoversDisabling(at time.Time) bool {
	return a.Days == 0 && !a.At.IsZero() && at.After(a.At.Add(-time.Hour)) && at.Before(a.At.Add(24*time.Hour))
}

// Covers reports whether a deletion at the given date is the one that was
// approved. An approval is for a date, so it cannot be used for an earlier
// deletion, nor again for a later one. KMS's date may differ by a day from the
// waiting period.
func (a Approval) Covers(deletion *time.Time) bool {
	if deletion == nil || a.Days == 0 {
		return false
	}
	approved := a.At.AddDate(0, 0, a.Days)
	return !deletion.Before(approved.AddDate(0, 0, -1)) && !deletion.After(approved.AddDate(0, 0, 2))
}

func approvalKey(keyARN string) string {
	return "retirements/" + state.Segment(arn.KeyID(keyARN)) + ".json"
}

// ReadApproval reads the approval of a key's deletion; ok is false if there is none.
func ReadApproval(ctx context.Context, store *state.Store, keyARN string) (a Approval, ok bool, err error) {
	_, err = store.Get(ctx, approvalKey(keyARN), &a)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return Approval{}, false, nil
	case err != nil:
		return Approval{}, false, fmt.Errorf("read approval of key %s: %w", keyARN, err)
	}
	return a, a.Key == keyARN, nil
}

// Schedule stores the approval and then schedules the key's deletion, in 7 to 30
// days, and returns its date. If KMS refuses, Schedule deletes the approval. It is
// an error if r is not free.
func Schedule(ctx context.Context, keys KMS, store *state.Store, r Result, by string, days int) (time.Time, error) {
	if !r.Free {
		return time.Time{}, fmt.Errorf("schedule deletion of key %s: the check found that it is still needed, or may be", r.Key)
	}
	approval := Approval{Key: r.Key, By: by, At: time.Now().UTC(), Days: days, Accepted: r.Accepted, Buckets: r.Buckets}
	if err := record(ctx, store, approval); err != nil {
		return time.Time{}, err
	}
	out, err := keys.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &r.Key, PendingWindowInDays: aws.Int32(int32(days))})
	if err != nil {
		return time.Time{}, errors.Join(fmt.Errorf("schedule deletion of key %s: %w", r.Key, err), withdraw(ctx, store, r.Key, err))
	}
	return aws.ToTime(out.DeletionDate), nil
}

// Disable stores the approval and then disables a key that nothing needs, so that the
// fleet does not enable it again. If KMS refuses, it deletes the approval.
func Disable(ctx context.Context, keys KMS, store *state.Store, keyARN, by string) error {
	if err := record(ctx, store, Approval{Key: keyARN, By: by, At: store.Now().UTC()}); err != nil {
		return err
	}
	if _, err := keys.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &keyARN}); err != nil {
		return errors.Join(fmt.Errorf("disable key %s: %w", keyARN, err), withdraw(ctx, store, keyARN, err))
	}
	return nil
}

// withdraw deletes an approval where KMS has refused what it is for. Where that may have
// been done, and only the answer was lost, the approval stays: without it the fleet would
// undo it.
func withdraw(ctx context.Context, store *state.Store, keyARN string, err error) error {
	if !Refused(err) {
		return nil
	}
	return store.Delete(context.WithoutCancel(ctx), approvalKey(keyARN), "")
}

// Refused reports whether an error of a call is the service's answer that it was not done.
// A key whose state does not allow it may be in that state because an earlier try of the
// same call was done, and its answer lost.
func Refused(err error) bool {
	answer, ok := errors.AsType[*smithyhttp.ResponseError](err)
	api, named := errors.AsType[smithy.APIError](err)
	return ok && named && answer.HTTPStatusCode()/100 == 4 && api.ErrorCode() != "KMSInvalidStateException"
}

func record(ctx context.Context, store *state.Store, approval Approval) error {
	err := state.Update(ctx, store, approvalKey(approval.Key), func(a *Approval, _ bool) error {
		*a = approval
		return nil
	})
	if err != nil {
		return fmt.Errorf("record approval: %w", err)
	}
	return nil
}
