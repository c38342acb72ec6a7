package handlers_test

import (
	"slices"
	"strings"
	"testing"
	"time"

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
		if got := w.over("orders-data"); len(got) > 0 {
			t.Errorf("alerts:\n%s", texts(got))
		}
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

// Whoever reads a change of a bucket first tells it, and the other one does not tell it
// again: what a sweep or another event notes would else silence the event about it.
func TestBucketChangesAreToldByWhoeverReadsThemFirst(t *testing.T) {
	tag := func(w *world, alias string) {
		w.tag("orders-data", alias)
		w.record("s3", "PutBucketTagging", `"requestParameters":{"bucketName":"orders-data","tagging":""}`)
	}
	follow := func(w *world) { tag(w, "alias/other") }
	leave := func(w *world) { w.setDefault(strangersKey) }
	react := func(w *world, body string) {
		if err := w.handle(body); err != nil {
			w.t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(*world)
		event  string
		first  func(*world)
		title  string
	}{
		"tag, sweep": {follow, "PutBucketTagging", func(w *world) { w.sweep() }, "Tag cmkeeper:alias of bucket orders-data was changed"},
		"tag, event about its policy": {follow, "PutBucketTagging", func(w *world) {
			must(w.s3.DeleteBucketPolicy(w.ctx, &s3.DeleteBucketPolicyInput{Bucket: aws.String("orders-data")}))
			react(w, w.event("DeleteBucketPolicy"))
		}, "Tag cmkeeper:alias of bucket orders-data was changed"},
		"default, event about its tags": {leave, "PutBucketEncryption", func(w *world) {
			tag(w, "")
			react(w, w.event("PutBucketTagging"))
		}, "are encrypted under a key of another account"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, playConfig(reaction.Enforce, play{}), func(w *world) {
				w.sealedBucket()
				w.sweep()
				test.change(w)
				body := w.event(test.event)
				w.told.take()
				test.first(w)
				told := w.told.take()
				if i := slices.IndexFunc(told, func(a alert.Alert) bool { return strings.Contains(a.Title, test.title) }); i < 0 || told[i].Actor != nil {
					t.Errorf("the first one told:\n%s", texts(told)) // it does not know who did it
				}
				w.events()
				react(w, body)
				if told := texts(w.told.take()); test.event == "PutBucketTagging" && told != "" {
					t.Errorf("told again:\n%s", told)
				}
			})
		})
	}
}

// A tag that goes away and comes back is told each time that a sweep finds it.
func TestSweepTellsOfABucketThatChangesToAndFro(t *testing.T) {
	inWorld(t, playConfig(reaction.Enforce, play{}), func(w *world) {
		w.sealedBucket()
		w.createAlias("alias/other", *must(w.kms.DescribeKey(w.ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/orders")})).KeyMetadata.Arn)
		w.sweep()
		for range 2 {
			for _, alias := range []string{"alias/other", ""} {
				w.tag("orders-data", alias)
				w.events() // lost
				time.Sleep(time.Minute)
				w.sweep()
				if a := w.one(); a.Kind != alert.KindTag || a.Severity != finding.Medium || a.Actor != nil {
					t.Errorf("alert:\n%s", a.Text())
				}
				w.sweep()
				w.none()
			}
		}
	})
}
