package inventory

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

// Every request to KMS waits for the pace, and has a quota: each page of a list, and each
// attempt. Where the pace refuses, no request is sent.
func TestPace(t *testing.T) {
	w := newWorld(t)
	key := w.createKey(t, &kms.CreateKeyInput{})
	for n := range 150 {
		w.createAlias(t, fmt.Sprintf("alias/a%d", n), key)
	}
	var mu sync.Mutex
	waited := map[string]int{}
	ctx := WithPace(t.Context(), Pace{
		Rate: func(string) (float64, int) { return 1e9, 1000 },
		Passed: func(operation string) {
			mu.Lock()
			defer mu.Unlock()
			waited[operation]++
		},
	})
	readAll := func() error {
		_, err := w.Key(ctx, key)
		errs := []error{err}
		_, err = w.Rotation(ctx, key)
		errs = append(errs, err)
		_, err = w.Policy(ctx, key)
		errs = append(errs, err)
		_, err = w.Tags(ctx, key)
		errs = append(errs, err)
		_, err = w.Grants(ctx, key)
		errs = append(errs, err)
		_, err = w.LastUsage(ctx, key)
		errs = append(errs, err)
		_, err = w.Keys(ctx)
		errs = append(errs, err)
		_, err = w.LastRotation(ctx, key)
		errs = append(errs, err)
		_, err = w.KeyStores(ctx)
		errs = append(errs, err)
		_, err = w.Aliases(ctx)
		return errors.Join(append(errs, err)...)
	}
	w.server.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"DescribeKey"}, Effect: localaws.Throttle, Rate: 1e-9, Burst: 1, Count: 1})
	if err := readAll(); err != nil {
		t.Fatal(err)
	}
	if err := readAll(); err != nil {
		t.Fatal(err)
	}
	for operation, n := range waited {
		if sent := w.server.Requests("kms", operation); n != sent {
			t.Errorf("%d requests of %s waited, %d were sent", n, operation, sent)
		}
	}
	if n := waited["DescribeKey"]; n != 3 {
		t.Errorf("%d attempts of DescribeKey waited, one of two requests was throttled once", n)
	}
	if n := waited["ListAliases"]; n != 4 {
		t.Errorf("%d pages of aliases waited, want 4", n)
	}
	if got, want := slices.Sorted(maps.Keys(waited)), slices.Sorted(maps.Keys(Quotas)); !slices.Equal(got, want) {
		t.Errorf("waited: %q; quotas: %q", got, want)
	}
	sent := w.server.Requests("kms", "GetKeyPolicy")
	closed := WithPace(t.Context(), Pace{Rate: func(string) (float64, int) { return 0, 0 }})
	if _, err := w.Policy(closed, key); err == nil {
		t.Error("a request was sent for which there is no rate")
	}
	if n := w.server.Requests("kms", "GetKeyPolicy") - sent; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	if _, err := w.Policy(t.Context(), key); err != nil {
		t.Errorf("without a pace: %v", err)
	}
}

// The in-process AWS throttles what a Reader calls as the Reader believes that KMS does.
func TestQuotas(t *testing.T) {
	modelled := map[string]float64{}
	for _, f := range localaws.KMSQuotas() {
		for _, operation := range f.Operations {
			modelled[operation] = f.Rate
		}
	}
	keys := reflect.TypeFor[KMS]()
	for i := range keys.NumMethod() {
		operation := keys.Method(i).Name
		if quota := Quotas[operation]; quota == 0 || modelled[operation] != quota {
			t.Errorf("%s: %g a second, and localaws has %g", operation, quota, modelled[operation])
		}
	}
}
