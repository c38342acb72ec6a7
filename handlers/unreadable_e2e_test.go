package handlers_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
)

// A stored document that cannot be read is left out and told once: a sweep does everything
// else and succeeds, and a start waits for nothing.
func TestUnreadableDocuments(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key, other := w.knownKey("alias/orders"), w.rotatingKey(180)
		w.knownKey("alias/app")
		w.sweep()
		w.told.take()
		for name, body := range map[string]string{
			ledger.KeyName(key):              `{"schema":"cmkeeper.key.v1","seen":`,
			ledger.AliasName("alias/orders"): `{"schema":"cmkeeper.alias.v99"}`,
			ledger.BaselineName(key):         `nonsense`,
		} {
			must(w.s3.PutObject(w.ctx, &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: aws.String("cmkeeper/" + name), Body: strings.NewReader(body)}))
		}
		w.disableRotation(other)
		w.events() // is lost
		if err := w.router.Snapshot(w.ctx); err != nil {
			t.Errorf("snapshot: %v", err)
		}
		w.sweep()
		w.sweep()
		if days := w.rotation(other); days != 180 {
			t.Errorf("rotation of another key is %d", days)
		}
		guards := 0
		for _, a := range w.told.take() {
			if a.Kind != alert.KindGuard {
				continue
			}
			guards++
			if a.Severity != finding.High || !a.Ongoing || !strings.Contains(a.Text(), ledger.KeyName(key)) || !strings.Contains(a.Text(), ledger.AliasName("alias/orders")) {
				t.Errorf("alert:\n%s", a.Text())
			}
		}
		if guards != 1 {
			t.Errorf("%d alerts about what cannot be read", guards)
		}
	})
}
