// Walks a data set from end to end: DCMTK reads the elements' headers and the values that are
// wanted; everything else, sequences and pixel data above all, is stepped over without building
// objects, so that memory and stack do not grow with the file. (DCMTK's own DcmDataset::read
// recurses: ten thousand nested sequences overflow its stack.) For the worker's C++ part only.
#ifndef DICOM_SCAN_H
#define DICOM_SCAN_H

#include "dicom/dicom_fdstream.h"

#include "dcmtk/dcmdata/dcdatset.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// Deeper nesting is refused: real files stay below 20, and what reads them after us recurses.
constexpr unsigned SCAN_MAX_DEPTH = 128;
// So many known elements in order make a file without prefix plausible as DICOM.
constexpr unsigned SCAN_PLAUSIBLE = 4;
// Larger values are left in the file until they are asked for.
constexpr Uint32 SCAN_MAX_LOADED = 4096;

enum class ScanEnd {
    whole,     // ends where its last element ends; padding or rubbish may follow
    truncated, // ends earlier
    malformed, // the structure makes no sense
    too_deep,
};

class ScannedDataset final : public DcmDataset
{
  public:
    // Reads elements up to the end of the stream, or to the first of another group if `group` is
    // not 0xffff. `wanted` is sorted; sequences among them are not kept.
    ScanEnd scan(FdStream &stream, E_TransferSyntax xfer, const std::vector<DcmTagKey> &wanted,
                 Uint16 group = 0xffff);

    // The transfer syntax that the next bytes look like (one of the uncompressed ones); `declared`
    // where they do not tell.
    E_TransferSyntax detect(FdStream &stream, E_TransferSyntax declared);

    // Where a scan that did not end `whole` ended: text for people, without values.
    const std::string &fault() const
    {
        return fault_;
    }
    // Elements of the standard's dictionary that came in ascending order, counted up to
    // SCAN_PLAUSIBLE.
    unsigned knownElements() const
    {
        return knownElements_;
    }
    unsigned elements() const
    {
        return elements_;
    }
    bool hasSequence(const DcmTagKey &tag) const;
    // Frames and transfer syntax decide whether encapsulated pixel data without a delimiter are
    // whole.
    void setEncapsulation(bool runLength)
    {
        runLength_ = runLength;
    }

  private:
    struct Level {
        bool item;      // else a sequence
        bool fragments; // the sequence's items hold bytes, not elements
        bool explicitVr;
        offile_off_t end; // -1: undefined length
    };
    struct Header {
        DcmTagKey tag;
        char vr[3]; // "" where there is none
        Uint32 length;
    };

    ScanEnd fail(ScanEnd end, const DcmTagKey &tag, const char *what);
    ScanEnd judgeRest(FdStream &stream, const DcmTagKey &next, bool plausible);
    bool startsWithItem(FdStream &stream);
    bool readTag(FdStream &stream, DcmTagKey &tag, size_t &got);
    bool readNestedHeader(FdStream &stream, bool explicitVr, Header &header);
    ScanEnd skipFragments(FdStream &stream, const DcmTagKey &tag);
    ScanEnd skipSequence(FdStream &stream, const DcmTagKey &tag, Uint32 length, bool explicitVr,
                         bool asUnknown);
    ScanEnd enter(const DcmTagKey &tag, bool item, bool fragments, bool explicitVr,
                  offile_off_t end);
    ScanEnd stepInSequence(FdStream &stream, const DcmTagKey &tag);
    ScanEnd stepInItem(FdStream &stream, const DcmTagKey &tag);
    void note(const DcmTagKey &tag);
    bool fits(FdStream &stream, offile_off_t n) const;
    offile_off_t plainSize(const DcmTagKey &tag, const unsigned char *head) const;
    std::optional<ScanEnd> keep(FdStream &stream, DcmTag &tag, Uint32 length,
                                E_TransferSyntax xfer);
    std::optional<ScanEnd> readElement(FdStream &stream, const DcmTagKey &next,
                                       const unsigned char *head);
    bool isWanted(const DcmTagKey &tag) const;
    unsigned long frames();

    std::vector<Level> levels_;
    const std::vector<DcmTagKey> *wanted_ = nullptr;
    E_TransferSyntax xfer_ = EXS_Unknown;
    bool explicitVr_ = false;
    bool bigEndian_ = false;
    bool runLength_ = false;
    unsigned knownElements_ = 0;
    unsigned elements_ = 0;
    DcmTagKey last_{0, 0};
    bool sawDirectory_ = false;
    bool sawRows_ = false;
    bool sawPixelData_ = false;
    std::string fault_;
};

// Whether two letters are a value representation of PS3.5 6.2.
bool scanIsVr(const char *vr);

#endif
