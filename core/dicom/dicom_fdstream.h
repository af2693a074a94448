// DCMTK input from an open descriptor, as workers get one and may open nothing: read by pread(2)
// from any offset, deflated data sets inflated on the way, values left in the file (DCMTK's
// "deferred") readable through a factory. For the worker's C++ part only. The descriptor is not
// owned and must outlive stream and factories.
#ifndef DICOM_FDSTREAM_H
#define DICOM_FDSTREAM_H

#include "dcmtk/config/osconfig.h"

#include "dcmtk/dcmdata/dcistrma.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include <zlib.h>

// Inflating stops there: what no data set reaches, a bomb does; sooner where the ratio is one that
// only emptiness has (deflate's limit is 1032).
constexpr offile_off_t FDSTREAM_MAX_INFLATED = offile_off_t(1) << 30;
constexpr offile_off_t FDSTREAM_MAX_EMPTINESS = offile_off_t(256) << 20;
constexpr offile_off_t FDSTREAM_EMPTY_RATIO = 500;

// Where the bytes are.
struct FdSource {
    int fd;
    offile_off_t start; // offset of the first byte in the file
    offile_off_t end;   // size of the file
    bool deflated;      // raw deflate (PS3.5 A.5), or with zlib's header as some write it
};

class FdProducer final : public DcmProducer
{
  public:
    enum class Fault {
        none,
        io,          // read error, or the file shrank meanwhile
        deflate,     // the deflated data are damaged
        deflate_cut, // they end before their last block does
        bomb,        // they inflate beyond these limits
    };

    explicit FdProducer(const FdSource &source);
    ~FdProducer() override;
    FdProducer(const FdProducer &) = delete;
    FdProducer &operator=(const FdProducer &) = delete;

    OFBool good() const override;
    OFCondition status() const override;
    OFBool eos() override;
    offile_off_t avail() override;
    offile_off_t read(void *buf, offile_off_t buflen) override;
    offile_off_t skip(offile_off_t skiplen) override;
    void putback(offile_off_t num) override;

    const FdSource &source() const
    {
        return source_;
    }
    Fault fault() const
    {
        return fault_;
    }
    // Bytes from the start, of the inflated data if the source is deflated.
    offile_off_t position() const
    {
        return position_;
    }

  private:
    bool inWindow() const;
    bool fill();
    bool fillPlain();
    bool fillInflated();
    void fail(Fault fault);
    bool isBomb() const;
    offile_off_t left() const;

    FdSource source_;
    Fault fault_ = Fault::none;
    offile_off_t position_ = 0;
    std::vector<unsigned char> window_;
    offile_off_t windowStart_ = 0; // position of window_[0]
    size_t windowLength_ = 0;
    size_t chunk_; // bytes the next pread asks for
    // deflate
    z_stream zlib_{};
    bool zlibOpen_ = false;
    bool zlibEnd_ = false;
    std::vector<unsigned char> input_;
    offile_off_t inputOffset_ = 0; // of what was not yet read, in the file
};

class FdStream final : public DcmInputStream
{
  public:
    // Starts `offset` bytes (of inflated data if deflated) behind source.start.
    explicit FdStream(const FdSource &source, offile_off_t offset = 0);
    DcmInputStreamFactory *newFactory() const override;
    const FdProducer &producer() const
    {
        return producer_;
    }
    // Reads up to n bytes without moving.
    size_t peek(void *buf, size_t n);
    // The n bytes before the present position, at most 64; false if they are out of reach.
    bool lookBack(void *buf, size_t n);

  private:
    FdProducer producer_;
};

class FdStreamFactory final : public DcmInputStreamFactory
{
  public:
    FdStreamFactory(const FdSource &source, offile_off_t offset) : source_(source), offset_(offset)
    {
    }
    DcmInputStream *create() const override;
    DcmInputStreamFactory *clone() const override;
    DcmInputStreamFactoryType ident() const override;

  private:
    FdSource source_;
    offile_off_t offset_;
};

#endif
