package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"

	"github.com/cmkeeper/cmkeeper/outcome"
)

// KMS is every mutating call that cmkeeper makes on keys; *kms.Client has it.
type KMS interface {
	EnableKeyRotation(context.Context, *kms.EnableKeyRotationInput, ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error)
	CancelKeyDeletion(context.Context, *kms.CancelKeyDeletionInput, ...func(*kms.Options)) (*kms.CancelKeyDeletionOutput, error)
	EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error)
	PutKeyPolicy(context.Context, *kms.PutKeyPolicyInput, ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error)
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
}

// perform makes a call whose intent is stored already, and stores its request
// ids, by which the event of the call is recognised when it comes back.
func (r *Router) perform(ctx context.Context, keyARN, operation string, rep repair, call func(context.Context) (middleware.Metadata, error)) error {
	if err := r.writes.Wait(ctx); err != nil {
		return fmt.Errorf("wait to call %s: %w", operation, err)
	}
	meta, err := call(ctx)
	if err != nil {
		err = fmt.Errorf("call %s on key %s: %w", operation, keyARN, err)
		if !isRefusal(err) {
			return err // it may have happened: the intent stays
		}
		_, noteErr := r.updateKey(ctx, keyARN, func(doc *keyDoc) {
			doc.answered(operation, rep, nil, false, true)
		})
		return errors.Join(err, noteErr)
	}
	ids, known := requestIDs(meta)
	_, err = r.updateKey(ctx, keyARN, func(doc *keyDoc) {
		doc.answered(operation, rep, ids, known, false)
	})
	return err
}

// requestIDs returns the request ids of all attempts of a call that succeeded,
// and whether every attempt has one. An attempt whose answer was lost has none,
// yet may be the one that CloudTrail shows.
func requestIDs(meta middleware.Metadata) (ids []string, known bool) {
	attempts, ok := retry.GetAttemptResults(meta)
	if !ok {
		id, ok := awsmiddleware.GetRequestIDMetadata(meta)
		return []string{id}, ok && id != ""
	}
	known = true
	for _, a := range attempts.Results {
		if id, ok := awsmiddleware.GetRequestIDMetadata(a.ResponseMetadata); ok && id != "" {
			ids = append(ids, id)
		} else {
			known = false
		}
	}
	return ids, known && len(ids) > 0
}

// isRefusal reports whether AWS answered that it did not do what was asked.
func isRefusal(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && api.ErrorFault() == smithy.FaultClient || isAccessDenied(err)
}

// isAccessDenied recognises the refusal that no KMS operation models.
func isAccessDenied(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && (api.ErrorCode() == "AccessDeniedException" || api.ErrorCode() == "AccessDenied")
}

// How a repair is checked: the read-back is polled this often, with doubling
// pauses (about 6 seconds in all), and then again when the message comes back.
const (
	readBacks     = 6
	readBackPause = 100 * time.Millisecond
	readBackAgain = 15 * time.Second
)

// confirm polls until seen is true. Where it never is, the result is an
// expected wait: KMS says it did it, and may take longer to show it.
func confirm(ctx context.Context, what string, seen func(context.Context) (bool, error)) error {
	pause := readBackPause
	for range readBacks {
		ok, err := seen(ctx)
		if err != nil {
			return fmt.Errorf("read back %s: %w", what, err)
		}
		if ok {
			return nil
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
		pause *= 2
	}
	return outcome.RetryAfter(readBackAgain, fmt.Errorf("read back %s: KMS does not show it yet", what))
}

// now is the time as documents keep it: what is stored compares equal to what
// is read back.
func now() time.Time { return time.Now().UTC().Round(0) }
