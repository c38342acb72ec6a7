package handlers_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// A bucket that left its key while nobody listened is told by the next sweep, once.
func TestSweepFindsABucketThatLeftItsKey(t *testing.T) {
	inWorld(t, playConfig(reaction.Enforce, play{}), func(w *world) {
		w.sealedBucket()
		w.sweep()
		w.none()
		w.setDefault(strangersKey)
		must(w.s3.DeleteBucketPolicy(w.ctx, &s3.DeleteBucketPolicyInput{Bucket: aws.String("orders-data")}))
		w.events() // lost
		w.sweep()
		told := w.told.take()
		if len(told) != 2 || told[0].Severity != finding.Critical || told[1].Severity != finding.Medium || told[0].Actor != nil || !strings.Contains(told[0].Summary, "no event reported") {
			t.Errorf("%d alerts:\n%s", len(told), texts(told))
		}
		w.sweep()
		w.none()
	})
}

// A bucket with an alias as its tag has to be under that alias's key.
func TestBucketGoesByItsTag(t *testing.T) {
	inWorld(t, playConfig(reaction.Enforce, play{}), func(w *world) {
		key, other := w.knownKey("alias/orders"), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", key)
		w.tag("orders-data", "alias/orders")
		w.react()
		w.none()
		w.setDefault(other)
		w.react()
		a := w.one()
		if a.Severity != finding.High || !strings.Contains(strings.Join(a.Next, "\n"), key) || facts(a, "default key now") != other {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.setDefault("alias/orders")
		w.react()
		w.none()
	})
}

// A bucket that may not be read is judged by what was sent: whoever seals it with
// a key of their own may lock us out, too.
func TestBucketThatMayNotBeRead(t *testing.T) {
	inWorld(t, playConfig(reaction.Enforce, play{}), func(w *world) {
		w.sealedBucket()
		w.setDefault(strangersKey)
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "s3:GetEncryptionConfiguration" })
		w.react()
		if a := w.one(); a.Severity != finding.Critical {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// Our own re-encryption moves the defaults of buckets where it is told to.
func TestOwnChangeOfABucketIsAnEcho(t *testing.T) {
	for _, fix := range []bool{true, false} {
		inWorld(t, playConfig(reaction.Enforce, play{change: func(c *reaction.Config) { c.FixBucketDefault = fix }}), func(w *world) {
			w.sealedBucket()
			other := w.newKey(kms.CreateKeyInput{})
			w.react()
			keeper := s3.NewFromConfig(inprocess.Config(w.aws, region, keeperKey), func(o *s3.Options) { o.UsePathStyle = true })
			must(keeper.PutBucketEncryption(w.ctx, defaultKey("orders-data", other)))
			w.react()
			if told := w.told.take(); fix && len(told) > 0 || !fix && (len(told) != 2 || told[0].Kind != alert.KindGuard) {
				t.Errorf("fix %v: %d alerts:\n%s", fix, len(told), texts(told))
			}
		})
	}
}
