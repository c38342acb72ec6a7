package s3

import (
	"net/http/httptest"
	"testing"
)

func TestOperationName(t *testing.T) {
	for _, tc := range []struct{ method, target, header, want string }{
		{"GET", "/", "", "ListBuckets"},
		{"PUT", "/bucket", "", "CreateBucket"},
		{"PUT", "/bucket/", "", "CreateBucket"},
		{"GET", "/bucket", "", "ListObjects"},
		{"GET", "/bucket?list-type=2&prefix=a", "", "ListObjectsV2"},
		{"GET", "/bucket?list-type=3", "", ""},
		{"GET", "/bucket?versions&max-keys=1", "", "ListObjectVersions"},
		{"GET", "/bucket?encryption", "", "GetBucketEncryption"},
		{"POST", "/bucket?delete", "", "DeleteObjects"},
		{"POST", "/bucket", "", ""}, // a browser's form upload
		{"PUT", "/bucket/key", "", "PutObject"},
		{"PUT", "/bucket/key?x-id=PutObject", "", "PutObject"},
		{"PUT", "/bucket/key?encryption", "", "UpdateObjectEncryption"},
		{"PUT", "/bucket/key?encryption&versionId=1", "", "UpdateObjectEncryption"},
		{"PUT", "/bucket/key?encryption&acl", "", ""},
		{"PUT", "/bucket/key?encryption;acl", "", ""},
		{"PUT", "/bucket/key?annotation", "", ""},
		{"PUT", "/bucket/key?renameObject", "", ""},
		{"PUT", "/bucket/key?%zz", "", ""},
		{"PUT", "/bucket/key", "X-Amz-Copy-Source", "CopyObject"},
		{"PUT", "/bucket/key?encryption", "X-Amz-Copy-Source", "UpdateObjectEncryption"},
		{"PUT", "/bucket/key?partNumber=1&uploadId=2", "", "UploadPart"},
		{"PUT", "/bucket/key?partNumber=1&uploadId=2", "X-Amz-Copy-Source", "UploadPartCopy"},
		{"POST", "/bucket/key?uploads", "", "CreateMultipartUpload"},
		{"POST", "/bucket/key?uploadId=2", "", "CompleteMultipartUpload"},
		{"POST", "/bucket/key?select&select-type=2", "", ""},
		{"GET", "/bucket/key?partNumber=1", "", "GetObject"},
		{"GET", "/bucket/key?torrent", "", ""},
		{"HEAD", "/bucket/key?versionId=1", "", "HeadObject"},
		{"GET", "http://bucket.localhost:4566/key", "", "GetObject"},
		{"GET", "http://bucket.s3.eu-west-1.amazonaws.com/", "", "ListObjects"},
		{"PUT", "http://127.0.0.1:4566/bucket/key", "", "PutObject"},
		{"PUT", "/bucket/key?X-Amz-Signature=0&X-Amz-Expires=1", "", "PutObject"},
		{"PUT", "/bucket/key?x-amz-server-side-encryption=aws:kms", "", ""}, // a header that a presigner hoisted
	} {
		r := httptest.NewRequest(tc.method, tc.target, nil)
		if tc.header != "" {
			r.Header.Set(tc.header, "bucket/source")
		}
		if got := OperationName(r); got != tc.want {
			t.Errorf("%s %s %s = %q, want %q", tc.method, tc.target, tc.header, got, tc.want)
		}
	}
}

// TestRoutes holds the two tables to each other: what has a name is served.
func TestRoutes(t *testing.T) {
	named := map[string]bool{"ListBuckets": true}
	for _, routes := range []map[string]string{bucketRoutes, objectRoutes} {
		for route, name := range routes {
			named[name] = true
			if operations()[name].serve == nil {
				t.Errorf("%s: nothing serves %s", route, name)
			}
		}
	}
	for name := range operations() {
		if !named[name] {
			t.Errorf("%s has no route", name)
		}
	}
}

func TestDecodeSource(t *testing.T) {
	for _, tc := range []struct{ in, bucket, key, version string }{
		{"b/k", "b", "k", ""},
		{"/b/k", "b", "k", ""},
		{"b/a/b%20c", "b", "a/b c", ""},
		{"b/plus+sign", "b", "plus sign", ""},
		{"b/plus%2Bsign", "b", "plus+sign", ""},
		{"b/%C3%BC%0A%26%25", "b", "ü\n&%", ""},
		{"b/k?versionId=v1", "b", "k", "v1"},
		{"b/k%3FversionId%3Dv1", "b", "k?versionId=v1", ""},
		{"b%2Fk", "b", "k", ""},
	} {
		bucket, key, version, err := decodeSource(tc.in)
		if err != nil || bucket != tc.bucket || key != tc.key || version != tc.version {
			t.Errorf("%q = %q, %q, %q, %v", tc.in, bucket, key, version, err)
		}
	}
	for _, bad := range []string{"", "b", "b/", "/b", "b/%zz", "b/k?version=1", "arn:aws:s3:us-east-1:000000000000:accesspoint/a/object/k"} {
		if _, _, _, err := decodeSource(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseRange(t *testing.T) {
	for _, tc := range []struct {
		in       string
		from, to int64
		ok       bool
	}{
		{"bytes=0-3", 0, 4, true},
		{"bytes=8-", 8, 10, true},
		{"bytes=8-99", 8, 10, true},
		{"bytes=-4", 6, 10, true},
		{"bytes=-99", 0, 10, true},
		{"bytes=10-", 10, 10, true},
		{"bytes=-0", 10, 10, true},
		{"bytes=3-1", 0, 0, false},
		{"bytes=0-1,3-4", 0, 0, false},
		{"bytes=x-", 0, 0, false},
		{"bytes=-", 0, 0, false},
		{"chars=0-1", 0, 0, false},
		{"bytes=0-9223372036854775807", 0, 10, true},
		{"bytes=0-9223372036854775808", 0, 0, false},
	} {
		from, to, ok := parseRange(tc.in, 10)
		if ok != tc.ok || ok && (from != tc.from || to != tc.to) {
			t.Errorf("%q = %d, %d, %v", tc.in, from, to, ok)
		}
	}
}
